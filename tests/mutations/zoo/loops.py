"""Training steps other than the usual one: precisions, accumulation, closures, schedules, several optimizers."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adam, AdamW, Optimizer, RAdam
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, OneCycleLR, ReduceLROnPlateau

from catdog.doctor import Intent, Patient
from catdog.doctor.patient import Batch, Loss, usual_step
from tests.mutations.zoo.healthy import Healthy, Small, healthy, patient, rates, scheduled, small_batch


def _scaled(scaler: torch.amp.GradScaler, dtype: torch.dtype) -> Callable[[nn.Module, Batch, Loss, Optimizer], Tensor]:
    def step(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> Tensor:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=dtype):
            value = loss(model(batch[0]), batch[1])
        scaler.scale(value).backward()  # type: ignore[no-untyped-call]
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        return value

    return step


@healthy("29 fp16 with a scaler that skips", "the first steps overflow and change nothing", quick=True)
def half(seed: int) -> Patient:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**22)
    return patient(Small(), small_batch(seed), step=_scaled(scaler, torch.float16), scaler=scaler)


@healthy("30 bf16 autocast", "losses with three digits")
def brain(seed: int) -> Patient:
    def step(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> Tensor:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = loss(model(batch[0]), batch[1])
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return value

    return patient(Small(), small_batch(seed), step=step)


@healthy("31 accumulation of four", "three of four steps change nothing", quick=True)
def accumulated(seed: int) -> Patient:
    calls = 0

    def step(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> Tensor:
        nonlocal calls
        if calls % 4 == 0:
            optimizer.zero_grad()
        value = loss(model(batch[0]), batch[1]) / 4
        value.backward()  # type: ignore[no-untyped-call]
        calls += 1
        if calls % 4 == 0:
            optimizer.step()
        return value

    return patient(Small(), small_batch(seed), step=step, intent=Intent(loss="cross_entropy", accumulate=4))


@healthy("31b accumulation by images", "gradients are sums until the window ends: a short one is right as well")
def by_images(seed: int) -> Patient:
    calls, images = 0, 0

    def step(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> Tensor:
        nonlocal calls, images
        value = loss(model(batch[0]), batch[1])
        (value * len(batch[1])).backward()  # type: ignore[no-untyped-call]
        calls, images = calls + 1, images + len(batch[1])
        if calls % 4 == 0:
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.grad /= images
            optimizer.step()
            optimizer.zero_grad()
            images = 0
        return value

    return patient(Small(), small_batch(seed), step=step, intent=Intent(loss="cross_entropy", accumulate=4))


@healthy("37 torch.compile, channels_last", "a module around the network, strides that are not contiguous")
def compiled(seed: int) -> Patient:
    model = Small().to(memory_format=torch.channels_last)
    images, target = small_batch(seed)
    whole: Any = torch.compile(model, backend="aot_eager")
    return patient(whole, (images.contiguous(memory_format=torch.channels_last), target))


@healthy("38 LBFGS", "several forward and backward passes a step, in a closure", quick=True)
def lbfgs(seed: int) -> Patient:
    def step(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> Any:
        def closure() -> Any:
            optimizer.zero_grad()
            value = loss(model(batch[0]), batch[1])
            value.backward()  # type: ignore[no-untyped-call]
            return value

        return optimizer.step(closure)

    model = Small()
    return patient(model, small_batch(seed), optimizer=LBFGS(model.parameters(), lr=0.5, max_iter=4), step=step)


class SAM(Optimizer):
    """Steps uphill first, and takes the gradient from there (Foret et al. 2020, https://arxiv.org/abs/2010.01412)."""

    def __init__(self, inner: Optimizer, *, rho: float = 0.05) -> None:
        super().__init__(inner.param_groups, {"rho": rho})
        self.inner = inner
        self.param_groups = inner.param_groups

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        tensors = [tensor for group in self.param_groups for tensor in group["params"] if tensor.grad is not None]
        norm = torch.stack([tensor.grad.norm() for tensor in tensors]).norm()
        moves = [tensor.grad * (self.param_groups[0]["rho"] / (norm + 1e-12)) for tensor in tensors]
        for tensor, move in zip(tensors, moves, strict=True):
            tensor.add_(move)
        with torch.enable_grad():
            closure()
        for tensor, move in zip(tensors, moves, strict=True):
            tensor.sub_(move)
        return self.inner.step()


@healthy("38b SAM", "two backward passes a step, the second somewhere else; an optimizer inside an optimizer")
def sam(seed: int) -> Patient:
    def step(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> Tensor:
        def closure() -> Any:
            optimizer.zero_grad()
            value = loss(model(batch[0]), batch[1])
            value.backward()  # type: ignore[no-untyped-call]
            return value

        value: Tensor = closure()
        optimizer.step(closure)
        return value

    model = Small()
    return patient(model, small_batch(seed), optimizer=SAM(SGD(model.parameters(), lr=0.05, momentum=0.9)), step=step)


@healthy("39 OneCycleLR", "begins at a twenty-fifth, ends at nearly nothing; momentum moves too", quick=True)
def one_cycle(seed: int) -> Patient:
    def make(optimizer: Optimizer) -> OneCycleLR:
        return OneCycleLR(optimizer, 0.1, total_steps=300)

    model = Small()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = make(optimizer)
    return patient(
        model, small_batch(seed), optimizer=optimizer, scheduler=scheduler, step=scheduled(scheduler),
        schedule=rates(lambda inner: OneCycleLR(inner, 0.1, total_steps=300, cycle_momentum=False), lr=0.1, steps=300),
    )


@healthy("39b cosine with warm restarts", "the learning rate rises again, three times")
def restarts(seed: int) -> Patient:
    def make(optimizer: Optimizer) -> CosineAnnealingWarmRestarts:
        return CosineAnnealingWarmRestarts(optimizer, 75)

    model = Small()
    optimizer = AdamW(model.parameters(), lr=3e-3)
    scheduler = make(optimizer)
    return patient(
        model, small_batch(seed), optimizer=optimizer, scheduler=scheduler, step=scheduled(scheduler),
        schedule=rates(make, lr=3e-3, steps=300), intent=Intent(loss="cross_entropy", restarts=True),
    )


@healthy("ReduceLROnPlateau", "a constant learning rate, though there is a scheduler")
def plateau(seed: int) -> Patient:
    model = Small()
    optimizer = Adam(model.parameters(), lr=1e-3)
    return patient(model, small_batch(seed), optimizer=optimizer, scheduler=ReduceLROnPlateau(optimizer, patience=3))


@healthy("two optimizers", "the one that is shown holds but the head")
def two(seed: int) -> Patient:
    model = Small()
    other = SGD(model.features.parameters(), lr=0.01, momentum=0.9)

    def step(network: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> Tensor:
        other.zero_grad()
        value = usual_step(network, batch, loss, optimizer)
        other.step()
        return value

    return patient(model, small_batch(seed), optimizer=AdamW(model.head.parameters(), lr=1e-3), step=step)


class Trainer:
    """A loop that owns everything and is handed nothing that it has not got."""

    def __init__(self) -> None:
        self.model = Small(dropout=0.1)
        groups: Sequence[dict[str, Any]] = (
            {"params": [one for one in self.model.parameters() if one.ndim > 1], "weight_decay": 0.05},
            {"params": [one for one in self.model.parameters() if one.ndim <= 1], "weight_decay": 0.0},
        )
        self.optimizer = RAdam(groups, lr=1e-3)
        self.criterion = nn.CrossEntropyLoss()
        self.steps, self.history = 0, list[float]()

    def step(self, _: nn.Module, batch: Batch, *_more: Any) -> None:
        self.model.train()
        loss = self.criterion(self.model(batch[0]), batch[1])
        self.optimizer.zero_grad(set_to_none=False)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm=1.0)
        self.optimizer.step()
        self.steps += 1
        self.history.append(loss.item())


@healthy("a trainer that owns everything", "the step reads its own network and optimizer; gradients of zero, not of none")
def trainer(seed: int) -> Patient:
    own = Trainer()
    return patient(own.model, small_batch(seed), own.criterion, own.optimizer, step=own.step)


CONFIGURATIONS: tuple[Healthy, ...] = (
    half, brain, accumulated, by_images, compiled, lbfgs, sam, one_cycle, restarts, plateau, two, trainer,
)
