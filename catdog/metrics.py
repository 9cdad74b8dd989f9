"""Tally: loss, accuracy and what is behind it for each label, over a split; each image counted once whatever the batch sizes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(slots=True)
class Tally:
    """Sums over the images seen so far. Means are taken once, at the end.

    The workshop that seeded catdog added batch *means* and divided by *images*: its losses were too small by the batch
    size, and differently for train and val. Sums cannot go wrong that way.

    Three counts for each of C labels are enough for every figure here. A confusion matrix would hold C x C of them, and a thousand labels
    are allowed; this also travels in every checkpoint.
    """

    images: int = 0
    loss_sum: float = 0.0
    actual: list[int] = field(default_factory=list)
    """(C,) images of each label, in the order of the network's outputs; like the two below empty before the first batch."""
    predicted: list[int] = field(default_factory=list)
    """(C,) images that were called so."""
    hits: list[int] = field(default_factory=list)
    """(C,) images of the label that were called so."""

    def add(self, losses: Tensor, logits: Tensor, target: Tensor) -> None:
        """Count one batch: losses (N,) float, logits (N, C) float, target (N,) int64."""
        labels = logits.shape[1]
        answers, truth = logits.detach().argmax(dim=1).cpu().numpy(), target.cpu().numpy()
        self.images += len(target)
        self.loss_sum += losses.detach().sum(dtype=torch.float64).item()
        self.actual = _more(self.actual, truth, labels)
        self.predicted = _more(self.predicted, answers, labels)
        self.hits = _more(self.hits, truth[answers == truth], labels)

    @property
    def loss(self) -> float:
        """Mean loss per image."""
        return self.loss_sum / self.images

    @property
    def accuracy(self) -> float:
        """Share of images whose largest logit is their target's."""
        return sum(self.hits) / self.images

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall of the labels that occur: what accuracy would be if all had equally many images (Brodersen et al. 2010)."""
        recalls = [recall for recall, images in zip(self.recall, self.actual, strict=True) if images]
        return sum(recalls) / len(recalls)

    @property
    def precision(self) -> list[float]:
        """(C,) of the images called so, the share that is so. 0 where nothing was called so: scikit-learn's zero_division=0."""
        return [_share(hits, called) for hits, called in zip(self.hits, self.predicted, strict=True)]

    @property
    def recall(self) -> list[float]:
        """(C,) of the images that are so, the share called so. 0 where there are none."""
        return [_share(hits, images) for hits, images in zip(self.hits, self.actual, strict=True)]

    @property
    def f1(self) -> list[float]:
        """(C,) harmonic mean of precision and recall. 0 where the label neither occurs nor is ever answered."""
        return [
            _share(2 * hits, images + called) for hits, images, called in zip(self.hits, self.actual, self.predicted, strict=True)
        ]

    def to_dict(self, labels: Sequence[str]) -> dict[str, Any]:
        """As it stands in metrics.json and in the model package; `labels` are the names of the outputs, in their order."""
        figures = zip(labels, self.actual, self.precision, self.recall, self.f1, strict=True)
        return {
            "images": self.images, "loss": self.loss, "accuracy": self.accuracy, "balanced_accuracy": self.balanced_accuracy,
            "by_label": {
                label: {"images": images, "precision": precision, "recall": recall, "f1": f1}
                for label, images, precision, recall, f1 in figures
            },
        }


def _more(counts: list[int], found: NDArray[np.int64], labels: int) -> list[int]:
    more: list[int] = np.bincount(found, minlength=labels).tolist()
    return [one + another for one, another in zip(counts, more, strict=True)] if counts else more


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
