"""learning_rate: pure functions of the step, testable without a network."""

import math


def learning_rate(step: int, *, schedule: str, highest: float, warmup_steps: int, steps: int) -> float:
    """The learning rate of optimizer step `step` (from 0) of `steps`.

    1) while step < warmup_steps it rises linearly to `highest`;
    2) then `constant` stays there, and `cosine` falls along half a cosine to zero at the end
       (Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983, without restarts).
    """
    if step < warmup_steps:
        return highest * (step + 1) / warmup_steps
    if schedule == "constant":
        return highest
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    return highest * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
