"""range_test, compare_devices: questions to a network that are not training. They ask copies; the network stays as it is."""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from catdog import loop
from catdog.config import BATCH_SIZE, TrainConfig
from catdog.errors import BadInput, NonFiniteLoss
from catdog.learner import Learner
from catdog.loaders import Split
from catdog.ranks import ALONE
from catdog.state import State

LOWEST, HIGHEST = 1e-6, 1.0
"""Learning rates that the range test goes through."""
STEPS = 100
SMOOTHING = 0.9
"""Of the exponential mean that the losses are looked at in: a batch's loss says as much about the batch as about the rate."""
WINDOW = 20
"""Steps, a fifth of the way: over fewer it is the batches that make the loss rise and fall."""
DIVERGED = 4.0
"""Times the lowest loss: from there on nothing more is to be seen."""
COMPARED_STEPS = 3


@dataclass(frozen=True, slots=True)
class RangeTest:
    """The loss while the learning rate rises."""

    rates: list[float]
    losses: list[float]
    """Smoothed, of the same steps."""
    proposed: float | None
    """Where the loss falls fastest; None where it does not fall."""


def range_test(network: nn.Module, split: Split, config: TrainConfig, *, labels: int, device: str) -> Iterator[RangeTest]:
    """Train a copy with a learning rate that rises from step to step (Smith 2017, https://arxiv.org/abs/1506.01186).

    Yields what is known after every step; the last is the answer.
    """
    learner = Learner.build(copy.deepcopy(network), config, targets=split.targets, labels=labels, device=device, ranks=ALONE)
    rates, losses, mean, state = [], [], 0.0, State()
    for number, (inputs, target) in enumerate(_endless(split, config, steps=STEPS)):
        rate = LOWEST * (HIGHEST / LOWEST) ** (number / (STEPS - 1))
        learner.set_rate(rate)
        before = state.tally.loss_sum
        try:
            loop.train_step(learner, inputs.to(device), target.to(device), images=len(target), state=state)
        except NonFiniteLoss:
            break
        mean = SMOOTHING * mean + (1 - SMOOTHING) * (state.tally.loss_sum - before) / len(target)
        rates.append(rate)
        losses.append(mean / (1 - SMOOTHING ** (number + 1)))
        yield RangeTest(rates, losses, _steepest(rates, losses))
        if losses[-1] > DIVERGED * min(losses):
            break


def _steepest(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """The middle of the WINDOW steps over which the curve falls most, before its lowest point."""
    falls = np.subtract(losses[WINDOW : int(np.argmin(losses)) + 1], losses[: max(0, int(np.argmin(losses)) + 1 - WINDOW)])
    if not len(falls) or falls.min() >= 0:
        return None
    return rates[int(np.argmin(falls)) + WINDOW // 2]


def _endless(split: Split, config: TrainConfig, *, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of epoch after epoch, `steps` of them."""
    epoch = 0
    while steps > 0:
        plan = split.plan(config.batch_size or BATCH_SIZE, loop.order_of(split, config, epoch=epoch))[:steps]
        yield from split.batches(plan, epoch=epoch)
        steps, epoch = steps - len(plan), epoch + 1


@dataclass(frozen=True, slots=True)
class Comparison:
    """A step on two devices."""

    losses: tuple[float, float]
    difference: float
    """The largest of a weight after the step, as a share of the largest weight of its tensor."""


def compare_devices(
    network: nn.Module, split: Split, config: TrainConfig, *, labels: int, devices: tuple[str, str],
) -> Iterator[Comparison]:
    """Make three steps on each of two devices, from the same weights with the same batches, in float32, and compare after each.

    In evaluation mode: dropout draws from another generator on each device, and what is compared is arithmetic.

    Raises:
        BadInput: one of the devices does not answer.
    """
    try:
        learners = [
            Learner.build(
                copy.deepcopy(network), config.model_copy(update={"precision": "float32"}), targets=split.targets, labels=labels,
                device=device, ranks=ALONE,
            )
            for device in devices
        ]
    except (RuntimeError, AssertionError) as error:  # how torch says that it has no such device
        raise BadInput(
            f"Expected two devices to compare, {' and '.join(devices)}. Received: one that does not answer ({error}).",
            remedy="`catdog doctor system` says what this machine has.",
        ) from error
    for inputs, target in _endless(split, config, steps=COMPARED_STEPS):
        losses = [_step(learner, inputs.to(learner.device), target.to(learner.device)) for learner in learners]
        pairs = zip(*(learner.network.parameters() for learner in learners), strict=True)
        differences = [_apart(one.detach().cpu().double(), other.detach().cpu().double()) for one, other in pairs]
        yield Comparison((losses[0], losses[1]), max(differences))


def _step(learner: Learner, inputs: Tensor, target: Tensor) -> float:
    """A step in evaluation mode; returns the loss before it."""
    learner.network.eval()
    _, weighted = learner.losses_of(learner.network(inputs), [(target, 1.0)])
    gradients = torch.autograd.grad(weighted.mean(), learner.parameters, allow_unused=True)
    for parameter, gradient in zip(learner.parameters, gradients, strict=True):
        parameter.grad = gradient
    learner.set_rate(learner.config.learning_rate)
    learner.optimizer.step()
    return weighted.mean().item()


def _apart(one: Tensor, other: Tensor) -> float:
    scale = float(one.abs().max()) or math.inf
    return float((one - other).abs().max()) / scale
