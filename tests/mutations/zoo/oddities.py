"""Networks that are built in ways in which a doctor could break them, or could break itself."""

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from catdog.doctor import Intent, Patient
from tests.mutations.zoo.healthy import Healthy, Small, healthy, patient, small_batch


@healthy("hooks that keep and change things", "hooks of the owner's, some of which change gradients and outputs")
def hooked(seed: int) -> Patient:
    model = Small()
    kept: dict[str, Tensor] = {}
    model.features[4].register_forward_hook(lambda *call: kept.update(map=call[-1]))
    model.features[4].register_full_backward_hook(lambda *call: kept.update(gradient=call[-1][0]))
    model.features[8].register_forward_pre_hook(lambda _, given: (given[0] * 1.0,))
    model.head.register_forward_hook(lambda *call: call[-1] / 2.0)
    model.head.weight.register_hook(lambda gradient: gradient.clamp(-1, 1))  # type: ignore[no-untyped-call]
    return patient(model, small_batch(seed))


@healthy("lazy modules", "parameters without a shape until the first batch")
def lazy(seed: int) -> Patient:
    model = nn.Sequential(
        nn.LazyConv2d(16, 3, stride=2), nn.LazyBatchNorm2d(), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(2),
    )
    return patient(model, small_batch(seed))


class Guarded(nn.Module):
    """Has slots, properties, locks, an iterator, arrays, generators and a buffer that nobody saves."""

    __slots__ = ("calls",)
    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.calls, self.lock = Small(), 0, threading.Lock()
        self.numbers = (number for number in range(10))
        self.rng, self.generator, self.sizes = np.random.default_rng(0), torch.Generator().manual_seed(0), np.zeros(3)
        self.register_buffer("mean", torch.zeros(1, 3, 1, 1), persistent=False)
        self.register_buffer("ones", torch.ones(1).expand(3, 4))

    @property
    def depth(self) -> int:
        raise RuntimeError("Expected nobody to ask.")

    def forward(self, images: Tensor) -> Tensor:
        with self.lock:
            self.calls += 1
        if self.training:
            self.mean.lerp_(images.mean((0, 2, 3), keepdim=True), 0.1)
            images = images + 0.01 * self.rng.standard_normal() + 0.01 * torch.randn(1, generator=self.generator)
        logits: Tensor = self.inner(images - self.mean)
        return logits


@healthy("slots, locks, iterators, generators", "copy.deepcopy fails; noise from generators of its own")
def guarded(seed: int) -> Patient:
    return patient(Guarded(), small_batch(seed))


@dataclass
class Answer:
    """As transformers' networks return it."""

    logits: Tensor
    hidden: tuple[Tensor, ...]


class Answering(nn.Module):
    """Returns an object."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Small()

    def forward(self, images: Tensor) -> Answer:
        features = self.network.features(images)
        return Answer(self.network.head(features), (features,))


@healthy("a dataclass is returned", "no tensor at first sight")
def answering(seed: int) -> Patient:
    return patient(Answering(), small_batch(seed), lambda answer, target: functional.cross_entropy(answer.logits, target), intent=Intent())


@healthy("a part that is compiled", "a module around a part of the network")
def partly_compiled(seed: int) -> Patient:
    model = Small()
    model.features = torch.compile(model.features, backend="aot_eager")  # type: ignore[assignment]
    return patient(model, small_batch(seed))


@healthy("compiled in place", "its call goes somewhere else")
def compiled_in_place(seed: int) -> Patient:
    model = Small()
    model.compile(backend="eager")
    return patient(model, small_batch(seed))


@healthy("TorchScript", "no attributes, no hooks, no Python")
def scripted(seed: int) -> Patient:
    model: Any = torch.jit.trace(Small(), small_batch(seed)[0], check_trace=False)  # type: ignore[no-untyped-call]
    return patient(model, small_batch(seed))


@healthy("torch.fx", "code that stands in no file")
def traced(seed: int) -> Patient:
    return patient(torch.fx.symbolic_trace(Small(dropout=0.1)), small_batch(seed))


@healthy("old weight_norm", "the weight is an attribute inside the graph")
def old_weight_norm(seed: int) -> Patient:
    model = Small()
    torch.nn.utils.weight_norm(model.head)
    torch.nn.utils.spectral_norm(model.features[4])
    return patient(model, small_batch(seed))


class Idle(nn.Module):
    """Metrics, identities and empty containers among its children."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.skip, self.extra = Small(), nn.Identity(), nn.ModuleList()
        self.drop, self.counter = nn.Dropout(0.0), Counter()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(self.skip(images))
        self.counter(logits.detach())
        return self.drop(logits)


class Counter(nn.Module):
    """Counts images; what it returns is for people to read."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, logits: Tensor) -> Tensor:
        self.seen += len(logits)
        return self.seen


@healthy("a metric inside the network", "a module whose result goes nowhere, dropout of 0, an identity")
def idle(seed: int) -> Patient:
    return patient(Idle(), small_batch(seed))


@healthy("normalisation without statistics", "in evaluation an image's answer depends on its batch; declared")
def transductive(seed: int) -> Patient:
    model = Small()
    for number, width in ((1, 16), (5, 32), (9, 32)):
        model.features[number] = nn.BatchNorm2d(width, track_running_stats=False)
    return patient(model, small_batch(seed), intent=Intent(loss="cross_entropy", transductive=True))


class Doubtful(nn.Module):
    """Draws dropout in evaluation as well, to tell how sure it is (Gal & Ghahramani 2015, https://arxiv.org/abs/1506.02142)."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Small()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network.head(functional.dropout(self.network.features(images), 0.3, training=True))
        return logits


@healthy("dropout in evaluation, declared", "two evaluations differ")
def doubtful(seed: int) -> Patient:
    return patient(Doubtful(), small_batch(seed), intent=Intent(loss="cross_entropy", random_eval=True))


@healthy("double precision, frozen offset", "a parameter without gradient beside others of its module; float64")
def double(seed: int) -> Patient:
    model = Small().double()
    model.head.bias.requires_grad_(False)
    images, target = small_batch(seed)
    return patient(model, (images.double(), target))


@healthy("activations in place", "inputs are overwritten; the network changes what it is given")
def in_place(seed: int) -> Patient:
    class Overwriting(Small):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images.sub_(images.mean((2, 3), keepdim=True)))

    model = Overwriting()
    for number in (2, 6, 10):
        model.features[number] = nn.ReLU(inplace=True)
    return patient(model, small_batch(seed))


CONFIGURATIONS: tuple[Healthy, ...] = (
    hooked, lazy, guarded, answering, partly_compiled, compiled_in_place, scripted, traced, old_weight_norm, idle, transductive, doubtful,
    double, in_place,
)
