"""temperature, least_confidence, Bank, ece, expected_ece: what makes a confidence mean something, and says when there is none.

N pictures, C labels, F features. Everything is fitted on the validation split, on answers of the very network that is served, and nothing
on pictures of neither label: what a model has not seen is known by its distance from what it has.

    logits --/ temperature--> softmax --> confidence       below least_confidence: abstain, "unsure"
    features --Bank.distances--> distance                  above Bank.farthest:    abstain, "unfamiliar"
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

TEMPERATURES = (0.05, 20.0)
"""Within these it is looked for."""
NEIGHBOUR = 10
"""The distance is to this nearest training picture. One alone may be mislabelled; the tenth has the same label around it (Sun et al.
2022, https://arxiv.org/abs/2204.06507)."""
MAX_ROWS = 2000
"""Training pictures in a bank."""
FAMILIAR = 0.99
"""The share of validation pictures that are near enough."""
PRECISION = 0.99
"""What is wanted of the answers that are given: this share of them right."""
BINS = 15
"""Of confidence, equally wide (Guo et al. 2017, https://arxiv.org/abs/1706.04599)."""


def temperature(logits: NDArray[np.float32], target: NDArray[np.int64]) -> float:
    """What to divide logits (N, C) by, so that confidences are as often right as they say (Guo et al. 2017). target (N,).

    The targets are Platt's (1999), (n + 1) / (n + C) instead of 1: on a split without a single mistake the best temperature would
    otherwise be 0, and every confidence 1. The order of the labels never changes.
    """
    from scipy.optimize import minimize_scalar  # where a model is fitted; the service, which only answers, goes without SciPy
    from scipy.special import log_softmax

    images, labels = logits.shape
    right = (images + 1) / (images + labels)
    wanted = np.full((images, labels), (1 - right) / (labels - 1))
    wanted[np.arange(images), target] = right

    def cost(log_temperature: float) -> float:
        return float(-(wanted * log_softmax(logits.astype(np.float64) / np.exp(log_temperature), axis=1)).sum(axis=1).mean())

    return float(np.exp(minimize_scalar(cost, bounds=tuple(np.log(TEMPERATURES)), method="bounded").x))


def least_confidence(confidence: NDArray[np.float64], hit: NDArray[np.bool_], *, precision: float = PRECISION) -> float:
    """The lowest confidence from which on, of the given ones (N,), a share of at least `precision` is right; 0 where all together are.

    Where no confidence does it, 1 plus nothing: only what is surer than every mistake is answered.
    """
    order = np.argsort(-confidence, kind="stable")
    share = np.cumsum(hit[order]) / np.arange(1, len(order) + 1)
    # Equal confidences stand or fall together.
    ends = np.append(np.diff(confidence[order]) != 0, True)
    good = np.flatnonzero((share >= precision) & ends)
    if len(good) == 0:
        return float(np.nextafter(confidence.max(), 2))
    return 0.0 if good[-1] == len(order) - 1 else float(confidence[order][good[-1]])


@dataclass(frozen=True, slots=True)
class Bank:
    """Features of training pictures, and how far from them a picture may be."""

    rows: NDArray[np.float32]
    """(n, F), each of length 1; n <= MAX_ROWS."""
    farthest: float
    """The FAMILIAR quantile of the validation pictures' distances."""

    @classmethod
    def of(cls, train: NDArray[np.float32], val: NDArray[np.float32]) -> Self:
        """Keep features of train (N, F), evenly chosen in their order, and measure how far those of val are from them."""
        chosen = np.unique(np.linspace(0, len(train) - 1, min(len(train), MAX_ROWS)).astype(np.int64))
        bank = cls(_unit(train[chosen]), np.inf)
        return cls(bank.rows, float(np.quantile(bank.distances(val), FAMILIAR)))

    def distances(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """features (N, F) -> (N,): the cosine distance, 0 to 2, to the NEIGHBOUR-th nearest row."""
        near = _unit(features) @ self.rows.T
        place = max(0, near.shape[1] - NEIGHBOUR)
        return np.asarray(1.0 - np.partition(near, place, axis=1)[:, place], dtype=np.float64)

    def save(self, path: Path) -> None:
        """Write bank.npz."""
        np.savez(path, rows=self.rows.astype(np.float16), farthest=np.float64(self.farthest))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read bank.npz."""
        with np.load(path, allow_pickle=False) as kept:
            return cls(_unit(kept["rows"].astype(np.float32)), float(kept["farthest"]))


def ece(confidence: NDArray[np.float64], hit: NDArray[np.bool_]) -> float:
    """The expected calibration error over BINS equally wide bins, of (N,) confidences in 0 to 1."""
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    sums = np.bincount(bins, weights=confidence - hit, minlength=BINS)
    return float(np.abs(sums).sum() / len(confidence))


def expected_ece(confidence: NDArray[np.float64], *, draws: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """Between which values the ece of a perfectly calibrated model with the same confidences lies in 95 of 100 samples of this size.

    Even such a model has an ece above 0: whether a picture is answered rightly is drawn by its confidence.
    """
    generator = np.random.default_rng(seed)
    drawn = [ece(confidence, generator.random(len(confidence)) < confidence) for _ in range(draws)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def _unit(features: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12), dtype=np.float32)
