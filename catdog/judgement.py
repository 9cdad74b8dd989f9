"""judge, Judgement: how right, how honest and how modest a model package is, on pictures that no training saw.

What it is judged by is stated with each figure; nothing is fitted here.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catdog.calibration import bins, brier, ece, expected_ece, softmax
from catdog.errors import BadInput, TooLarge, UnsupportedType
from catdog.inference import Prediction, Predictor
from catdog.labels import listed

FAMILIAR_ABSTAIN, STRANGE_ABSTAIN = 0.05, 0.95
"""At most so many pictures of the labels may get none, and at least so many of others must get none."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What came of it. N pictures of the labels, C labels."""

    predictor: Predictor
    target: NDArray[np.int64]
    """(N,)."""
    familiar: Mapping[Path, Prediction]
    """By picture of the labels, in the order of `target`."""
    strange: Mapping[Path, Prediction]
    """By picture of something else."""
    unreadable: Sequence[Path]

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """(N, C), calibrated."""
        return np.array([list(one.probabilities.values()) for one in self.familiar.values()])

    @property
    def before(self) -> NDArray[np.float64]:
        """(N, C), as they would be without the temperature: a calibrated log-probability is a logit divided by it, less a constant."""
        logarithms = np.log(np.maximum(self.probabilities, 1e-300))
        return softmax(logarithms, 1 / self.predictor.calibration.temperature)

    @property
    def hit(self) -> NDArray[np.bool_]:
        """(N,): whether the most probable label was the right one, whether or not it was given."""
        return np.asarray(self.probabilities.argmax(axis=1) == self.target)

    @property
    def mistaken(self) -> list[Path]:
        """Pictures that got a wrong label."""
        return [path for (path, one), hit in zip(self.familiar.items(), self.hit, strict=True) if one.label is not None and not hit]

    def bins(self) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
        """Of confidence: calibrated, and before."""
        after, before = self.probabilities, self.before
        return bins(after.max(axis=1), self.hit), bins(before.max(axis=1), self.hit)

    def to_dict(self) -> dict[str, Any]:
        """Every figure."""
        after, before = self.probabilities, self.before
        confidence, hit = after.max(axis=1), self.hit
        given = np.array([one.label is not None for one in self.familiar.values()])
        figures: dict[str, Any] = {
            "images": len(self.familiar), "accuracy": float(hit.mean()), "ece": ece(confidence, hit),
            "ece_of_calibrated": expected_ece(confidence), "ece_before": ece(before.max(axis=1), hit),
            "brier": brier(after, self.target), "brier_before": brier(before, self.target),
            "abstained": float(1 - given.mean()), "accuracy_of_given": float(hit[given].mean()) if given.any() else None,
            "unreadable": len(self.unreadable),
        }
        if self.strange:
            near, far = (np.array([one.distance for one in some.values()]) for some in (self.familiar, self.strange))
            beyond = (far[:, np.newaxis] > near).mean() + (far[:, np.newaxis] == near).mean() / 2
            figures |= {
                "strange_images": len(far), "auroc_of_distance": float(beyond),
                "strange_abstained": float(np.mean([one.label is None for one in self.strange.values()])),
            }
        return figures


def judge(predictor: Predictor, labelled: Iterable[tuple[Path, str]], strangers: Iterable[Path]) -> Judgement:
    """Ask about pictures with their labels, and about pictures of something else. What cannot be read is listed.

    Raises:
        BadInput: a label is none of the package's, or no picture can be read.
    """
    pictures = dict(labelled)
    if unknown := sorted(set(pictures.values()) - set(predictor.labels)):
        raise BadInput(
            f"Expected pictures of {listed(predictor.labels)}. Received: some of {listed(unknown)}.", remedy="Leave them out of --data.",
        )
    unreadable: list[Path] = []
    familiar = dict(_asked(predictor, pictures, unreadable))
    strange = dict(_asked(predictor, strangers, unreadable))
    if not familiar:
        raise BadInput("Expected pictures that can be read. Received: none.", remedy="Name a folder of labelled pictures.")
    target = np.array([predictor.labels.index(pictures[path]) for path in familiar], dtype=np.int64)
    return Judgement(predictor, target, familiar, strange, unreadable)


def _asked(predictor: Predictor, paths: Iterable[Path], unreadable: list[Path]) -> Iterator[tuple[Path, Prediction]]:
    for path in paths:
        try:
            yield path, predictor.predict_file(path)
        except (BadInput, TooLarge, UnsupportedType, OSError):
            unreadable.append(path)
