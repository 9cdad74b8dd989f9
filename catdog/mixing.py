"""mix, Mixed: mixup and CutMix, which train on two pictures at once.

N images of a batch. Every picture meets its neighbour in the batch, by one lambda for the whole batch, drawn from hash(seed, step): so a
resumed run mixes what the first would have. mixup blends (Zhang et al. 2018, https://arxiv.org/abs/1710.09412), CutMix puts a
rectangle of one into the other (Yun et al. 2019, https://arxiv.org/abs/1905.04899); where both are wanted they take turns at random.
"""

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from catdog.config import TrainConfig


@dataclass(frozen=True, slots=True)
class Mixed:
    """A batch of which each image is `lam` itself and the rest its partner."""

    inputs: Tensor
    target: Tensor
    """(N,) int64."""
    partner: Tensor
    """(N,) int64: the target of what was mixed in."""
    lam: float
    """Lambda of both papers."""

    @property
    def parts(self) -> list[tuple[Tensor, float]]:
        """The targets that the answers shall have, and how much of each."""
        return [(self.target, 1.0)] if self.lam == 1 else [(self.target, self.lam), (self.partner, 1 - self.lam)]


def mix(inputs: Tensor, target: Tensor, config: TrainConfig, *, step: int) -> Mixed:
    """Mix a batch as the config wants it in that step: pixels (N, S, S, 3) uint8 become float where they are blended."""
    wanted = [(kind, alpha) for kind, alpha in (("mixup", config.mixup), ("cutmix", config.cutmix)) if alpha]
    if not wanted:
        return Mixed(inputs, target, target, 1.0)
    generator = np.random.default_rng([config.seed, step])
    kind, alpha = wanted[generator.integers(len(wanted))]
    lam = float(generator.beta(alpha, alpha))
    partner, other = target.roll(1), inputs.roll(1, dims=0)
    if kind == "mixup":
        return Mixed(lam * inputs.float() + (1 - lam) * other.float(), target, partner, lam)
    height, width = inputs.shape[1:3]
    side = math.sqrt(1 - lam)
    middle = generator.random(2)
    top, bottom = (round(np.clip(middle[0] + half * side / 2, 0, 1) * height) for half in (-1, 1))
    left, right = (round(np.clip(middle[1] + half * side / 2, 0, 1) * width) for half in (-1, 1))
    mixed = inputs.clone()
    mixed[:, top:bottom, left:right] = other[:, top:bottom, left:right]
    return Mixed(mixed, target, partner, 1 - (bottom - top) * (right - left) / (height * width))
