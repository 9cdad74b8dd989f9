"""Calibration, Bank, bins, ece, expected_ece, brier, softmax: what makes a confidence mean something, and says when there is none.

N pictures, C labels, F features. Everything is fitted on answers of the very network that is served, to the validation split; nothing on
pictures of neither label: what a model has not seen is known by its distance from what it has.

    features --Bank.distances--> distance                   above thresholds.distance:   abstain, "unfamiliar"
    logits --/ temperature--> softmax --> confidence        below thresholds.confidence: abstain, "unsure"
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

Reason = Literal["unfamiliar", "unsure"]
REASONS: dict[Reason, str] = {
    "unfamiliar": "unlike the pictures it was trained on", "unsure": "not sure enough of any label",
}
"""Why there is no label, in words."""
TEMPERATURES = (0.05, 20.0)
"""Within these it is looked for."""
EVIDENCE = 6.63
"""Twice the logarithm of how much likelier a temperature must make the answers than 1 does: the 99 % quantile of chi squared with one
degree of freedom, which chance alone exceeds once in a hundred times (Wilks 1938). Below it a few mistakes speak, of which two hundred
pictures have no more: over 40 splits of 1,400 photographs a temperature that was fitted in any case lay between 0.3 and 1.7, and made the
confidences of new ones worse."""
NEIGHBOUR = 10
"""The distance is to this nearest training picture. One alone may be mislabelled; the tenth has the same label around it (Sun et al.
2022, https://arxiv.org/abs/2204.06507)."""
MAX_ROWS = 2000
"""Training pictures in a bank."""
FAMILIAR = 0.99
"""The share of the pictures of validation, and of the bank's own, that are near enough."""
BINS = 15
"""Of confidence, equally wide (Guo et al. 2017, https://arxiv.org/abs/1706.04599)."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a package says of its confidences."""

    temperature: float
    """What logits are divided by before the softmax."""
    confidence: float
    """The least at which a label is given."""
    distance: float
    """The largest at which a label is given."""

    @classmethod
    def fit(
        cls, logits: NDArray[np.float32], target: NDArray[np.int64], features: NDArray[np.float32], bank: "Bank", *, precision: float,
    ) -> Self:
        """Fit to what the network answers to validation: logits (N, C), target (N,), features (N, F)."""
        heat = temperature(logits, target)
        probabilities = softmax(logits, heat)
        confidence = least_confidence(probabilities.max(axis=1), probabilities.argmax(axis=1) == target, precision=precision)
        return cls(heat, confidence, farthest(bank.distances(features), bank.own_distances()))

    def reasons(self, confidence: NDArray[np.float64], distance: NDArray[np.float64]) -> list[Reason | None]:
        """Why each of N pictures gets no label; None: it gets one."""
        return [
            "unfamiliar" if away > self.distance else "unsure" if sure < self.confidence else None
            for sure, away in zip(confidence, distance, strict=True)
        ]

    def to_dict(self) -> dict[str, Any]:
        """As it stands in package.json."""
        thresholds = asdict(self)
        return {"temperature": thresholds.pop("temperature"), "thresholds": thresholds}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Read what to_dict wrote."""
        return cls(fields["temperature"], **fields["thresholds"])


@dataclass(frozen=True, slots=True)
class Bank:
    """Features of training pictures, from which the distance of others is measured."""

    rows: NDArray[np.float32]
    """(n, F), each of length 1; n <= MAX_ROWS."""

    @classmethod
    def of(cls, features: NDArray[np.float32]) -> Self:
        """Keep features (n, F), to the precision of the file."""
        return cls(_unit(_unit(features).astype(np.float16).astype(np.float32)))

    def distances(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """features (N, F) -> (N,): the cosine distance, 0 to 2, to the NEIGHBOUR-th nearest row.

        Row by row, 0.1 ms: for a whole matrix product numpy wakes threads of its own, for which a busy machine lets it wait 10 ms.
        """
        return _distance(np.vecdot(_unit(features)[:, np.newaxis], self.rows))

    def own_distances(self) -> NDArray[np.float64]:
        """(n,): of each row to the n - 1 others."""
        rows = len(self.rows)
        return _distance((self.rows @ self.rows.T)[~np.eye(rows, dtype=bool)].reshape(rows, rows - 1))

    def save(self, path: Path) -> None:
        """Write bank.npz."""
        np.savez(path, rows=self.rows.astype(np.float16))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read bank.npz."""
        with np.load(path, allow_pickle=False) as kept:
            return cls(_unit(kept["rows"].astype(np.float32)))


def temperature(logits: NDArray[np.float32], target: NDArray[np.int64]) -> float:
    """What to divide logits (N, C) by, so that confidences are as often right as they say (Guo et al. 2017). target (N,).

    1 unless the pictures say otherwise, by more than EVIDENCE. On a split without a single mistake the likeliest would be near 0, and every
    confidence 1: the targets there are Platt's (1999), (N + 1) / (N + C) instead of 1. The order of the labels never changes.
    """
    from scipy.optimize import minimize_scalar  # where a model is fitted; the service, which only answers, goes without SciPy
    from scipy.special import log_softmax

    images, labels = logits.shape
    right = (images + 1) / (images + labels) if (logits.argmax(axis=1) == target).all() else 1.0
    wanted = np.full((images, labels), (1 - right) / (labels - 1))
    wanted[np.arange(images), target] = right

    def cost(log_temperature: float) -> float:
        return float(-2 * (wanted * log_softmax(logits.astype(np.float64) / np.exp(log_temperature), axis=1)).sum())

    best = minimize_scalar(cost, bounds=tuple(np.log(TEMPERATURES)), method="bounded")
    return float(np.exp(best.x)) if cost(0.0) - best.fun > EVIDENCE else 1.0


def least_confidence(confidence: NDArray[np.float64], hit: NDArray[np.bool_], *, precision: float) -> float:
    """The lowest confidence from which on, of the given ones (N,), a share of at least `precision` is right; 0 where all together are.

    Where no confidence does it, only what is surer than all of them is answered.
    """
    order = np.argsort(-confidence, kind="stable")
    share = np.cumsum(hit[order]) / np.arange(1, len(order) + 1)
    # Equal confidences stand or fall together.
    ends = np.append(np.diff(confidence[order]) != 0, True)
    good = np.flatnonzero((share >= precision) & ends)
    if len(good) == 0:
        return float(np.nextafter(confidence.max(), 2))
    return 0.0 if good[-1] == len(order) - 1 else float(confidence[order][good[-1]])


def farthest(val: NDArray[np.float64], own: NDArray[np.float64]) -> float:
    """The distance beyond which a picture is unfamiliar: the FAMILIAR quantile of those of validation, or of the bank's own rows.

    The larger of the two. A quantile so far out is known badly of a few hundred pictures, and the bank has more; but where the whole
    network was trained its own rows lie closer together than new pictures do.
    """
    return float(max(np.quantile(distances, FAMILIAR, method="higher") for distances in (val, own)))


def softmax(logits: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float64]:
    """logits (N, C) -> probabilities (N, C) float64 that add up to 1 a row, in the order of the logits."""
    shifted = np.exp((logits.astype(np.float64) - logits.max(axis=1, keepdims=True)) / temperature)
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def bins(confidence: NDArray[np.float64], hit: NDArray[np.bool_]) -> list[dict[str, float]]:
    """Of BINS equally wide bins those that hold pictures: mean confidence, accuracy, images, of (N,) confidences in 0 to 1."""
    of = _bin(confidence)
    held = [of == number for number in np.unique(of)]
    return [{"confidence": float(confidence[its].mean()), "accuracy": float(hit[its].mean()), "images": int(its.sum())} for its in held]


def ece(confidence: NDArray[np.float64], hit: NDArray[np.bool_]) -> float:
    """The expected calibration error: by how much confidence and accuracy differ within a bin, on average over pictures."""
    sums = np.bincount(_bin(confidence), weights=confidence - hit, minlength=BINS)
    return float(np.abs(sums).sum() / len(confidence))


def expected_ece(confidence: NDArray[np.float64], *, draws: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """Between which values the ece of a perfectly calibrated model with the same confidences lies in 95 of 100 samples of this size.

    Even such a model has an ece above 0: whether a picture is answered rightly is drawn by its confidence.
    """
    generator = np.random.default_rng(seed)
    drawn = [ece(confidence, generator.random(len(confidence)) < confidence) for _ in range(draws)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def brier(probabilities: NDArray[np.float64], target: NDArray[np.int64]) -> float:
    """Squared distance of probabilities (N, C) from the truth (N,) (Brier 1950), halved for two labels, as scikit-learn has it."""
    images, labels = probabilities.shape
    truth = np.zeros((images, labels))
    truth[np.arange(images), target] = 1.0
    squared = ((probabilities - truth) ** 2).sum(axis=1).mean()
    return float(squared / 2 if labels == 2 else squared)


def _bin(confidence: NDArray[np.float64]) -> NDArray[np.int64]:
    """A bin reaches from just above its lower edge to its upper one."""
    return np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)


def _distance(near: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N, n) cosines -> (N,) distances to the NEIGHBOUR-th nearest, or to the farthest of fewer."""
    place = max(0, near.shape[1] - NEIGHBOUR)
    return np.asarray(1.0 - np.partition(near, place, axis=1)[:, place], dtype=np.float64)


def _unit(features: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12), dtype=np.float32)
