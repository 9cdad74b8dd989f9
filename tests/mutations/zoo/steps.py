"""Training steps that do more than a step: several forward passes, gradients inside, other people's optimizers and networks."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.quantization import FakeQuantize, MovingAverageMinMaxObserver
from torch.func import functional_call
from torch.nn import functional
from torch.nn.utils import prune
from torch.optim import AdamW, Optimizer
from torch.utils.checkpoint import checkpoint

from catdog.doctor import Intent, Patient
from catdog.doctor.patient import Batch, Loss
from tests.mutations.zoo.healthy import Healthy, Small, healthy, patient, small_batch


@healthy("R-Drop", "the network is called twice a step, with other dropout (https://arxiv.org/abs/2106.14448)")
def twice(seed: int) -> Patient:
    def step(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> Tensor:
        one, other = model(batch[0]), model(batch[0])
        apart = functional.kl_div(one.log_softmax(1), other.log_softmax(1), reduction="batchmean", log_target=True)
        value = (loss(one, batch[1]) + loss(other, batch[1])) / 2 + 0.5 * apart
        model.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return value

    return patient(Small(dropout=0.3), small_batch(seed), step=step)


class Smooth(nn.Module):
    """Returns with its logits how steep they are (Gulrajani et al. 2017, https://arxiv.org/abs/1704.00028)."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Small()

    def forward(self, images: Tensor) -> Any:
        if not self.training or not torch.is_grad_enabled():
            return self.network(images)
        images = images.detach().requires_grad_(True)
        logits = self.network(images)
        (slope,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        return {"logits": logits, "steepness": slope.square().sum((1, 2, 3)).mean()}


def _penalised(outputs: Any, target: Tensor) -> Tensor:
    if isinstance(outputs, Tensor):
        return functional.cross_entropy(outputs, target)
    steepness: Tensor = outputs["steepness"]
    return functional.cross_entropy(outputs["logits"], target) + 0.1 * steepness


@healthy("a gradient penalty", "a gradient is taken inside the forward pass, and of it another")
def penalised(seed: int) -> Patient:
    return patient(Smooth(), small_batch(seed), _penalised, intent=Intent())


@healthy("called by functional_call", "the step calls the network with parameters handed to it")
def called_with_parameters(seed: int) -> Patient:
    def step(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> Tensor:
        optimizer.zero_grad()
        value = loss(functional_call(model, dict(model.named_parameters()), (batch[0],)), batch[1])
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return value

    return patient(Small(), small_batch(seed), step=step)


@healthy("a distilling loss", "the loss has a network of its own")
def distilling(seed: int) -> Patient:
    class Distilling(nn.Module):
        def __init__(self, teacher: nn.Module) -> None:
            super().__init__()
            self.teacher, self.images = teacher.eval().requires_grad_(False), torch.empty(0)

        def forward(self, outputs: Tensor, target: Tensor) -> Tensor:
            value = functional.cross_entropy(outputs, target)
            if len(self.images) != len(outputs):
                return value
            with torch.no_grad():
                wanted = self.teacher(self.images).softmax(1)
            return value + functional.kl_div(outputs.log_softmax(1), wanted, reduction="batchmean")

    loss = Distilling(Small(width=8))

    def step(model: nn.Module, batch: Batch, criterion: Loss, optimizer: Optimizer) -> Tensor:
        loss.images = batch[0]
        optimizer.zero_grad()
        value = criterion(model(batch[0]), batch[1])
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        loss.images = torch.empty(0)
        return value

    return patient(Small(), small_batch(seed), loss, step=step, intent=Intent())


@healthy("fused AdamW, parameters by name", "an optimizer that is one call, and groups that have names", quick=True)
def fused(seed: int) -> Patient:
    model = Small()
    return patient(model, small_batch(seed), optimizer=AdamW(model.named_parameters(), lr=1e-3, fused=True))


@healthy("pruned", "half of the weights are masked: a hook makes the weight, and no gradient comes to the masked half")
def pruned(seed: int) -> Patient:
    model = Small()
    for module in (model.features[4], model.head):
        prune.l1_unstructured(module, "weight", amount=0.5)  # type: ignore[no-untyped-call]
    return patient(model, small_batch(seed))


class Rounded(nn.Module):
    """Trained as it will be served in eight bits."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Small()
        make: Any = FakeQuantize
        eight = {"observer": MovingAverageMinMaxObserver, "quant_min": 0, "quant_max": 255, "dtype": torch.quint8}
        self.given, self.made = make(**eight), make(**eight)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.made(self.network.features(self.given(images)))
        logits: Tensor = self.network.head(features)
        return logits


@healthy("quantisation-aware", "observers change their buffers in every pass; rounding lets the gradient through")
def rounded(seed: int) -> Patient:
    return patient(Rounded(), small_batch(seed))


class Recomputed(nn.Module):
    """Its features are computed again in the backward pass, the newer way."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Small(dropout=0.2)

    def forward(self, images: Tensor) -> Tensor:
        features = checkpoint(self.network.features, images, use_reentrant=False)
        logits: Tensor = self.network.head(self.network.dropout(features))
        return logits


@healthy("checkpoints that are not reentrant", "modules are called a second time inside the backward")
def recomputed(seed: int) -> Patient:
    return patient(Recomputed(), small_batch(seed))


@healthy("DataParallel", "a module around the network")
def parallel(seed: int) -> Patient:
    return patient(nn.DataParallel(Small()), small_batch(seed))


CONFIGURATIONS: tuple[Healthy, ...] = (
    twice, penalised, called_with_parameters, distilling, fused, pruned, rounded, recomputed, parallel,
)
