"""learning_rate, planned, steps_per_epoch: how far a step goes and how many there are; pure functions, testable without a network."""

import math
from collections.abc import Callable
from functools import partial

from catdog.config import TrainConfig


def learning_rate(
    step: int, *, schedule: str, highest: float, warmup_steps: int, steps: int, step_size: int = 0, step_factor: float = 1.0,
) -> float:
    """The learning rate of optimizer step `step` (from 0) of `steps`.

    1) while step < warmup_steps it rises linearly to `highest`;
    2) then `constant` stays there; `cosine` falls along half a cosine to zero at the end (Loshchilov & Hutter 2017,
       https://arxiv.org/abs/1608.03983, without restarts); `step` is multiplied by `step_factor` after every `step_size` steps.
    """
    if step < warmup_steps:
        return highest * (step + 1) / warmup_steps
    if schedule == "constant":
        return highest
    if schedule == "step":
        return highest * step_factor ** (step // step_size)
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    return highest * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def planned(config: TrainConfig, *, steps_per_epoch: int) -> Callable[[int], float]:
    """The learning rate of every step of a training, from 0 on."""
    return partial(
        learning_rate, schedule=config.schedule, highest=config.learning_rate, warmup_steps=config.warmup_steps,
        steps=config.epochs * steps_per_epoch, step_size=steps_per_epoch * (config.step_epochs or -(-config.epochs // 3)),
        step_factor=config.step_factor,
    )


def steps_per_epoch(images: int, *, batch_size: int, ranks: int = 1) -> int:
    """Into how many batches an epoch of `images` is cut.

    A last batch of which one of `ranks` processes would have less than two images joins the batch before it: batch normalisation cannot
    take a single one.
    """
    batches = -(-images // batch_size)
    last = images - (batches - 1) * batch_size
    return batches - (batches > 1 and batch_size > 1 and last < 2 * ranks)
