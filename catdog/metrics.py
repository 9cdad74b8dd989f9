"""Tally, Answers, Measures, is_better: what is counted while training, and what is measured of a whole split.

N images, C labels. Each image counts once, whatever the batches were: sums and whole arrays, never means of batch means. The formulas are
scikit-learn's, or stand in calibration.py with their source.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn import metrics
from torch import Tensor

from catdog import calibration

LOWER_IS_BETTER = frozenset({"loss", "ece", "brier"})
MAX_CONFUSED = 100
"""Labels. A confusion matrix of more is not written down: it has their square of numbers, and nobody reads them."""


@dataclass(slots=True)
class Tally:
    """Sums over the images that were trained on so far in an epoch; they travel in every checkpoint.

    The workshop that seeded catdog added batch *means* and divided by *images*: its losses were too small by the batch
    size, and differently for train and val. Sums cannot go wrong that way.
    """

    images: int = 0
    loss_sum: float = 0.0
    hits: int = 0
    """Images whose largest logit was their target's."""

    def add(self, losses: Tensor, logits: Tensor, target: Tensor) -> None:
        """Count one batch: losses (N,) float, logits (N, C) float, target (N,) int64."""
        self.images += len(target)
        self.loss_sum += losses.sum(dtype=torch.float64).item()
        self.hits += int((logits.argmax(dim=1) == target).sum())

    @property
    def loss(self) -> float:
        """Mean loss per image."""
        return self.loss_sum / self.images

    @property
    def accuracy(self) -> float:
        """Share of images whose largest logit was their target's."""
        return self.hits / self.images


@dataclass(frozen=True, slots=True)
class Answers:
    """What a network answered to a whole split, on the CPU, in the order of the split."""

    losses: Tensor
    """(N,) float64."""
    logits: Tensor
    """(N, C) float."""
    target: Tensor
    """(N,) int64."""

    @property
    def non_finite(self) -> list[int]:
        """The positions of the images whose loss is no finite number."""
        return torch.nonzero(~torch.isfinite(self.losses)).flatten().tolist()


@dataclass(frozen=True, slots=True)
class Measures:
    """What is said of a split. By label means (C,) in the order of the network's outputs."""

    images: int
    loss: float
    accuracy: float
    balanced_accuracy: float
    """Mean recall of the labels that occur: what accuracy would be if all had equally many images (Brodersen et al. 2010)."""
    f1_macro: float
    """Mean F1 of the labels that occur."""
    auroc: float | None
    """Mean over the labels of the area under the curve of one against the rest; None where no label has both sides."""
    ece: float
    """Expected calibration error: by how much confidence and accuracy differ within a bin of confidence, on average over images."""
    brier: float
    """Squared distance of the probabilities from the truth (Brier 1950), halved for two labels, as scikit-learn has it."""
    support: list[int]
    """By label: its images."""
    precision: list[float]
    """By label: of the images called so, the share that is so. 0 where nothing was called so."""
    recall: list[float]
    """By label: of the images that are so, the share called so. 0 where there are none."""
    f1: list[float]
    """By label: harmonic mean of precision and recall."""
    confusion: list[list[int]]
    """(C, C): row the truth, column the answer."""
    bins: list[dict[str, float]]
    """Of confidence, those that hold images: mean confidence, accuracy, images."""

    @classmethod
    def of(cls, answers: Answers) -> Self:
        """Measure finite answers to at least one image."""
        labels = answers.logits.shape[1]
        probabilities = answers.logits.double().softmax(dim=1).numpy()
        target, called = answers.target.numpy(), answers.logits.argmax(dim=1).numpy()
        precision, recall, f1, support = metrics.precision_recall_fscore_support(
            target, called, labels=range(labels), zero_division=0.0,
        )
        occurs = support > 0
        confidence, hit = probabilities.max(axis=1), called == target
        return cls(
            images=len(target), loss=float(answers.losses.mean()), accuracy=float(hit.mean()),
            balanced_accuracy=float(recall[occurs].mean()), f1_macro=float(f1[occurs].mean()), auroc=_auroc(target, probabilities),
            ece=calibration.ece(confidence, hit), brier=calibration.brier(probabilities, target),
            support=support.tolist(), precision=precision.tolist(), recall=recall.tolist(), f1=f1.tolist(),
            confusion=metrics.confusion_matrix(target, called, labels=range(labels)).tolist(),
            bins=calibration.bins(confidence, hit),
        )

    def by(self, name: str) -> float | None:
        """One number, by its name in a config: loss, accuracy, balanced_accuracy, f1, auroc, ece or brier."""
        value: float | None = self.f1_macro if name == "f1" else getattr(self, name)
        return value

    def to_dict(self, labels: Sequence[str]) -> dict[str, Any]:
        """As it stands in metrics.json and in the model package; `labels` are the names of the outputs, in their order."""
        figures = zip(labels, self.support, self.precision, self.recall, self.f1, strict=True)
        by_label = {
            label: {"images": images, "precision": precision, "recall": recall, "f1": f1}
            for label, images, precision, recall, f1 in figures
        }
        single = {field.name: getattr(self, field.name) for field in fields(self) if not isinstance(getattr(self, field.name), list)}
        more = {"confusion": self.confusion} if len(labels) <= MAX_CONFUSED else {}
        return single | {"by_label": by_label, "bins": self.bins} | more


def is_better(name: str, value: float | None, than: float | None, *, by: float = 0.0) -> bool:
    """Whether `value` of a measure is better than another, by more than `by`; anything is better than nothing."""
    if value is None or than is None:
        return value is not None
    return value < than - by if name in LOWER_IS_BETTER else value > than + by


def _auroc(target: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float | None:
    """Two labels have one curve, seen from either side."""
    columns = range(1, 2) if probabilities.shape[1] == 2 else range(probabilities.shape[1])
    both = [label for label in columns if 0 < (target == label).sum() < len(target)]
    areas = [metrics.roc_auc_score(target == label, probabilities[:, label]) for label in both]
    return float(np.mean(areas)) if areas else None
