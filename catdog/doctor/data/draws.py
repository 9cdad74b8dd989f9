"""Draw, drawn, seeded: items of a split, each taken out of the owner's data set once and read by several examinations."""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from catdog.doctor.data.census import spread
from catdog.doctor.examination import CannotTell
from catdog.doctor.patient import ANY_ERROR, DataSplit, Patient

FEWEST, MOST = 24, 128
"""Items of a split that are looked at: how many depends on what one costs."""
SECONDS = 0.25
"""What the items of one split may take together."""


@dataclass(frozen=True, slots=True)
class Draw:
    """What a data set gave at one look."""

    split: str
    position: int
    inputs: Tensor
    target: object
    """As it came."""

    @property
    def label(self) -> int | None:
        """The number of its label; None where it is mixed of several, or no number."""
        target = self.target
        if isinstance(target, (Tensor, np.ndarray, list, tuple)):
            values = torch.as_tensor(target).flatten()
            if values.numel() == 1:
                target = values[0].item()
            else:
                return int(values.argmax()) if values.numel() > 1 and int((values != 0).sum()) == 1 else None
        return int(target) if isinstance(target, (int, float, np.integer, np.floating)) and float(target).is_integer() else None


def drawn(patient: Patient, name: str) -> list[Draw]:
    """Items of a split, the first and the last among them, evenly spread; an item that raises is left out."""
    key = f"drawn {name}"
    if key not in patient.known:
        patient.known[key] = list(_drawn(split_of(patient, name), name))
    found: list[Draw] = patient.known[key]
    return found


def _drawn(split: DataSplit, name: str) -> Iterator[Draw]:
    began = time.monotonic()
    fewest = spread(len(split.paths), FEWEST)
    rest = [position for position in spread(len(split.paths), MOST) if position not in fewest]
    for place, position in enumerate([*fewest, *rest]):
        if place >= len(fewest) and time.monotonic() - began > SECONDS:
            return
        try:
            inputs, target = split.items[position][:2]
        except ANY_ERROR:  # a file that cannot be read is D01's
            continue
        yield Draw(name, position, torch.as_tensor(inputs).detach().cpu(), target)


def split_of(patient: Patient, name: str) -> DataSplit:
    """A split of the data.

    Raises:
        CannotTell: there is no data, or no such split.
    """
    if patient.data is None or name not in patient.data.splits:
        raise CannotTell(f"no {name} split")
    return patient.data.splits[name]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Every common generator at a known state; what it was before is not put back: visit does."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    yield
