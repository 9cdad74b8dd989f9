"""Healthy, healthy, patient, evaluate: the one shape of a configuration, and what most of them have in common.

N images, C labels, S pixels a side. A configuration is a function that makes a Patient of a seed; torch, NumPy and Python draw from that
seed already.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from catdog.doctor import Intent, Patient
from catdog.doctor.patient import Batch, Loss, logits_of
from tests.mutations.zoo import pictures

CROSS_ENTROPY = Intent(loss="cross_entropy")


@dataclass(frozen=True, slots=True)
class Healthy:
    """One configuration."""

    name: str
    trap: str
    """What looks ill about it."""
    make: Callable[[int], Patient]
    allowed: tuple[str, ...] = ()
    """Codes that may warn: what they say is so, and is meant."""
    quick: bool = False
    """Whether `make test` takes it."""


def healthy(
    name: str, trap: str, *, allowed: tuple[str, ...] = (), quick: bool = False,
) -> Callable[[Callable[[int], Patient]], Healthy]:
    """Make a Healthy of a function. The name of one of the 42 of the catalogue begins with its number."""
    return lambda make: Healthy(name, trap, make, allowed, quick)


def patient(
    model: nn.Module, batch: Batch, loss: Loss | None = None, optimizer: Optimizer | None = None, **more: Any,
) -> Patient:
    """What is usual, but for what is said: cross entropy, AdamW of all that requires a gradient, an evaluation as it should be."""
    fields: dict[str, Any] = {"intent": CROSS_ENTROPY, "evaluate": evaluate} | more
    optimizer = optimizer or AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-3)
    return Patient(model, batch, loss or nn.CrossEntropyLoss(), optimizer, **fields)


def evaluate(model: nn.Module, batches: Iterable[Batch], loss: Loss) -> Mapping[str, float]:
    """The mean over images, whatever the batches' sizes; the network is afterwards in the mode it was in."""
    training = model.training
    model.eval()
    total, hits, images = 0.0, 0, 0
    with torch.no_grad():
        for inputs, target in batches:
            outputs = model(inputs)
            total += float(loss(outputs, target)) * len(target)
            hits += int((labels_of(outputs) == target).sum())
            images += len(target)
    model.train(training)
    return {"loss": total / images, "accuracy": hits / images}


def labels_of(outputs: Any) -> Tensor:
    """What a network answers: the largest of several logits, or one that is above zero."""
    logits = logits_of(outputs)
    if logits is None:
        raise ValueError("Expected logits.")
    return logits.argmax(1) if logits.ndim == 2 and logits.shape[1] > 1 else (logits.flatten() > 0).long()


def scheduled(scheduler: LRScheduler) -> Callable[[nn.Module, Batch, Loss, Optimizer], Tensor]:
    """The usual step, and one of the scheduler behind it."""

    def step(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> Tensor:
        inputs, target = batch
        optimizer.zero_grad()
        value = loss(model(inputs), target)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()
        return value

    return step


def rates(make: Callable[[Optimizer], LRScheduler], *, lr: float, steps: int) -> Callable[[], Sequence[float]]:
    """The learning rate of every step of a training, from a schedule like the one in use."""

    def schedule() -> Sequence[float]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
        scheduler, found = make(optimizer), []
        for _ in range(steps):
            found.append(float(optimizer.param_groups[0]["lr"]))
            optimizer.step()
            scheduler.step()
        return found

    return schedule


class Small(nn.Module):
    """Three convolutions and a head: (N, 3, S, S) -> (N, C)."""

    def __init__(self, *, channels: int = 3, outputs: int = 2, width: int = 16, dropout: float = 0.0) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * width, outputs)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(self.features(images)))
        return logits


def small_batch(seed: int, *, images: int = 8, side: int = 32) -> Batch:
    """Of striped pictures."""
    return pictures.striped(seed, images=images, side=side)
