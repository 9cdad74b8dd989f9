"""Run, runs_of, row_of: one configuration with one seed, and what came of it as a JSON object.

    {"version": "...", "name": "01 ...", "seed": 0, "allowed": [], "seconds": 3.1, "processor": 2.9, "made": 0.4, "findings": [...],
     "not_run": {...}, "equal": true}

`processor` is seconds of the processor, which a machine with other things to do does not lengthen. `equal` is whether the digest of the
patient was the same before and after. A visit that raises has "raised" with its traceback.
"""

import functools
import gc
import hashlib
import random
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from catdog import doctor
from catdog.doctor.catalogue import EXAMINATIONS
from catdog.doctor.snapshot import digest
from catdog.doctor.visit import visit
from tests.mutations.zoo.healthy import Healthy

BUDGET = 30.0
"""Seconds of a visit: what it is allowed everywhere but in the default job."""

SOURCES = (*Path(doctor.__file__).parent.glob("*.py"), *Path(__file__).parent.glob("*.py"))

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """One visit."""

    configuration: Healthy
    seed: int

    @property
    def key(self) -> tuple[str, int]:
        """What a row is known by."""
        return self.configuration.name, self.seed


def runs_of(configurations: Sequence[Healthy], *, seeds: int, only: Sequence[str] = ()) -> list[Run]:
    """Every configuration, or those in whose names one of `only` is found, with every seed."""
    chosen = [one for one in configurations if not only or any(part in one.name for part in only)]
    return [Run(one, seed) for one in chosen for seed in range(seeds)]


@functools.cache
def version() -> str:
    """Of the doctor and of the zoo: a row of another one says nothing of this one."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(SOURCES))).hexdigest()[:12]


def row_of(run: Run, *, budget: float = BUDGET) -> Row:
    """Make the configuration, and examine it."""
    row: Row = {"version": version(), "name": run.configuration.name, "seed": run.seed, "allowed": list(run.configuration.allowed)}
    for start in (torch.manual_seed, np.random.seed, random.seed):
        start(run.seed)
    began = time.monotonic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            patient = run.configuration.make(run.seed)
            row["made"], before, busy = time.monotonic() - began, digest(patient), time.process_time()
            report = visit(patient, EXAMINATIONS, budget=budget)
            row |= report.to_dict() | {"processor": time.process_time() - busy, "equal": digest(patient) == before}
    except Exception:  # noqa: BLE001 - a visit that raises is what this is to find
        row |= {"raised": traceback.format_exc(), "seconds": time.monotonic() - began}
    torch.compiler.reset()
    gc.collect()
    return row
