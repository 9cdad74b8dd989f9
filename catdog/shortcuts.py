"""find, auc, Shortcut: labels that can be told without looking at the picture, by its size, its format or its date.

A network finds such a way and learns nothing else: cats from one camera and dogs from another are told apart by their cameras.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catdog.datasets import Record

MIN_AUC = 0.9
"""Area under the ROC curve of one fact for one label against the others: 0.5 is chance, 1 tells them apart without error."""
MIN_PICTURES = 20
"""Of the label and of the others; below, chance does it."""
MAX_LABELS = 50
"""With more labels nothing is looked for: a fact that tells one of a thousand from the rest is common."""
_DAY = 86_400


@dataclass(frozen=True, slots=True)
class Shortcut:
    """A fact that gives a label away."""

    fact: str
    label: str
    auc: float


def find(records: Sequence[Record]) -> list[Shortcut]:
    """The facts that give a label away, the worst first."""
    labels = sorted({record.label for record in records})
    if len(labels) > MAX_LABELS:
        return []
    found = []
    for fact, values in _facts(records).items():
        ranks = _ranks(values)
        for label in labels if len(labels) > 2 else labels[:1]:  # of two labels, one gives the other away
            mine = np.array([record.label == label for record in records])
            if min(mine.sum(), (~mine).sum()) >= MIN_PICTURES:
                area = _auc(ranks, mine)
                if area > MIN_AUC:
                    found.append(Shortcut(fact, label, round(area, 4)))
    return sorted(found, key=lambda one: -one.auc)


def auc(values: NDArray[np.float64], mine: NDArray[np.bool_]) -> float:
    """How well one number a picture tells a label from the others, in either direction: 0.5 is chance, 1 without error."""
    return _auc(_ranks(values), mine)


def _facts(records: Sequence[Record]) -> dict[str, NDArray[np.float64]]:
    """Each fact as a number a picture. Days, not seconds: files are often copied label by label within a minute."""
    columns = {
        "width": [record.width for record in records],
        "height": [record.height for record in records],
        "shape (width to height)": [record.width / record.height for record in records],
        "bytes a pixel": [record.bytes / (record.width * record.height) for record in records],
        "day of change": [(record.modified or 0) // _DAY for record in records],
    }
    for name in ("format", "mode"):
        for value in sorted({getattr(record, name) for record in records})[1:]:
            columns[f"{name} {value}"] = [getattr(record, name) == value for record in records]
    return {name: np.array(values, dtype=np.float64) for name, values in columns.items()}


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1, equal values sharing their mean rank."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[places])


def _auc(ranks: NDArray[np.float64], mine: NDArray[np.bool_]) -> float:
    """Of either direction, from the rank sum (Mann and Whitney 1947)."""
    positives, negatives = int(mine.sum()), int((~mine).sum())
    area = (ranks[mine].sum() - positives * (positives + 1) / 2) / (positives * negatives)
    return float(max(area, 1 - area))
