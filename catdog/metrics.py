"""Tally: loss and accuracy over a split, each image counted once whatever the batch sizes."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(slots=True)
class Tally:
    """Sums over the images seen so far. Means are taken once, at the end.

    The workshop that seeded catdog added batch *means* and divided by *images*: its losses were too small by the batch
    size, and differently for train and val. Sums cannot go wrong that way.
    """

    images: int = 0
    loss_sum: float = 0.0
    correct: int = 0

    def add(self, losses: Tensor, logits: Tensor, target: Tensor) -> None:
        """Count one batch: losses (N,) float, logits (N, C) float, target (N,) int64."""
        self.images += len(target)
        self.loss_sum += losses.detach().sum(dtype=torch.float64).item()
        self.correct += int((logits.detach().argmax(dim=1) == target).sum().item())

    @property
    def loss(self) -> float:
        """Mean loss per image."""
        return self.loss_sum / self.images

    @property
    def accuracy(self) -> float:
        """Share of images whose largest logit is their target's."""
        return self.correct / self.images
