"""estimate, Estimate: how long a training will take here, and how much memory and disk. Three steps are made, and time is taken."""

import copy
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from catdog import balance, cache, device, loaders, loop
from catdog.config import BATCH_SIZE
from catdog.learner import Learner
from catdog.loaders import CHUNK, Pictures, Split
from catdog.losses import Loss
from catdog.machine import free_disk
from catdog.ranks import ALONE
from catdog.run import Prepared
from catdog.settings import Settings
from catdog.state import State

TIMED_STEPS = 3
KEPT = 4
"""Checkpoints that lie on disk at most: the last two and the best of each."""
FLOAT = 4
"""Bytes of a number."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a training will take, at the pace of a few steps."""

    seconds_per_step: float
    steps_per_epoch: int
    seconds_per_epoch: float
    """With the measuring of val and of the part of train."""
    features_seconds_at_most: float | None
    """Where the backbone is frozen: for its features, once. ONNX Runtime, which computes them, needs a half to a quarter of it."""
    peak_memory_bytes: int
    """Of this process until now; on a GPU, of what torch has taken there."""
    disk_bytes: int
    """For features or decoded pictures, checkpoints and package."""
    free_disk_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the job record."""
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(self).items()}


def estimate(prepared: Prepared, settings: Settings) -> Estimate:
    """Make a warm-up step and TIMED_STEPS more with a copy of the network; the run's own network and generators stay as they are."""
    config, state = prepared.config.model_copy(update={"compile": False, "devices": 1}), device.random_state()
    network = copy.deepcopy(prepared.network)
    split, seconds_per_picture = _split(prepared)
    learner = Learner.build(
        network, config, targets=split.targets, labels=len(prepared.dataset.labels), device=prepared.device.name, ranks=ALONE,
    )
    plan = split.plan(config.batch_size or BATCH_SIZE)
    measured = len(prepared.records["val"]) + len(prepared.records["train_eval"])
    per_step = _step(learner, split, plan)
    per_answer = _answer(learner.network, split.part(plan[0]), learner.plain_loss, device_name=prepared.device.name)
    device.restore_random_state(state)
    return Estimate(
        seconds_per_step=per_step, steps_per_epoch=len(plan), seconds_per_epoch=per_step * len(plan) + per_answer * measured,
        features_seconds_at_most=None if seconds_per_picture is None else seconds_per_picture * _looked_at(prepared),
        peak_memory_bytes=device.peak_memory(prepared.device.name), disk_bytes=_disk(prepared),
        free_disk_bytes=free_disk(settings.root),
    )


def _split(prepared: Prepared) -> tuple[Split, float | None]:
    """What the loop will be given of train; for a head the features of a few pictures again and again, and what one of them took."""
    if not prepared.frozen:
        return prepared.split("train"), None
    chosen = balance.draw(prepared.records["train"], min(CHUNK, len(prepared.records["train"])), seed=prepared.config.seed)
    pictures = Pictures(prepared.dataset, chosen, prepared.preprocess)
    backbone = copy.deepcopy(prepared.classifier).eval()
    began = time.monotonic()
    with torch.no_grad():
        features = backbone.features(loaders.pixels(pictures, threads=prepared.device.threads).fetch(range(len(chosen)), 0))
    per_picture = (time.monotonic() - began) / len(chosen)
    targets = torch.tensor([prepared.dataset.target(record) for record in prepared.records["train"]])
    return Split(targets, lambda positions, _: features[[position % len(features) for position in positions]]), per_picture


def _step(learner: Learner, split: Split, plan: list[list[int]]) -> float:
    """Seconds; the first step, which warms up, does not count where there are more."""
    state, took = State(), []
    for inputs, target in _endless(split, plan[: TIMED_STEPS + 1]):
        began = time.monotonic()
        loop.train_step(learner, inputs.to(learner.device), target.to(learner.device), images=len(target), state=state)
        device.wait(learner.device)
        took.append(time.monotonic() - began)
        if len(took) > TIMED_STEPS:
            break
    return sum(took[1:]) / len(took[1:])


def _endless(split: Split, plan: list[list[int]]) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from split.batches(plan)


def _answer(network: nn.Module, split: Split, loss: Loss, *, device_name: str) -> float:
    """Seconds that an answer to a picture takes."""
    began = time.monotonic()
    for _ in loop.evaluate(network, split, loss=loss, batch_size=len(split), device=device_name):
        pass
    return (time.monotonic() - began) / len(split)


def _looked_at(prepared: Prepared) -> int:
    return sum(len(prepared.records[name]) * (prepared.config.views if name == "train" else 1) for name in ("train", "val", "test"))


def _disk(prepared: Prepared) -> int:
    parameters = list(prepared.classifier.parameters())
    weights = FLOAT * sum(one.numel() for one in parameters)
    own = FLOAT * sum(one.numel() for one in prepared.network.parameters())
    trained = FLOAT * sum(one.numel() for one in parameters if one.requires_grad)
    moments = trained * (2 if prepared.config.optimizer == "adamw" else 1)
    checkpoints = KEPT * (own * (2 if prepared.config.ema else 1) + moments)
    package = 2 * weights  # as a graph and as weights
    if isinstance(head := prepared.classifier.head, nn.Linear) and prepared.frozen:
        return checkpoints + package + weights + FLOAT * head.in_features * _looked_at(prepared)
    return checkpoints + package + sum(cache.bytes_of(prepared.seen(name).shapes) for name in prepared.while_training)
