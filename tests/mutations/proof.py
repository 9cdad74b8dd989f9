"""observe, faults: the proof that a mutant counts: it trains in silence, and something that is kept differs from the healthy twin's."""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tests.mutations.patients import Host

SERVED = 12
"""Pictures of the test split that are asked about."""


def observe(folder: Path, budget: float) -> dict[str, Any]:
    """Train a host as its own script does and serve it; returns what can be seen of it."""
    host = Host(folder)
    history, test = host.train.main(folder / "config.json", folder)
    weights = torch.load(folder / "best.pt", weights_only=True)["model"]
    predictor = host.serve.Predictor(folder / "best.pt", host.config)
    files = sorted(Path(host.config.data, "test").iterdir(), key=lambda path: path.stem[:4])[:SERVED]
    answers = predictor.probabilities([path.read_bytes() for path in files])
    return {
        "observed": {
            "history": history, "test": test, "weights": _digest(weights),
            "answers": [[round(one, 5) for one in row] for row in answers.tolist()],
            "labels": [predictor.predict(path.read_bytes())[0] for path in files],
        },
        "is_finite": all(math.isfinite(value) for record in history for value in record.values())
        and all(bool(tensor.isfinite().all()) for tensor in weights.values()),
    }


def faults(row: Mapping[str, Any], twin: Mapping[str, Any] | None, *, loud: bool) -> str:
    """Why a mutant does not count; empty where it does."""
    if row["outcome"] != "done":
        return "" if loud else f"{row['outcome']}: {row.get('why', '').strip().splitlines()[-1:]}"
    if not row["is_finite"] and not loud:
        return "not finite"
    if twin is None or twin["outcome"] != "done":
        return "no healthy twin"
    return "" if differences(row, twin) else "equivalent: nothing that was observed differs"


def differences(row: Mapping[str, Any], twin: Mapping[str, Any]) -> list[str]:
    """What of the observed differs."""
    return [name for name, value in twin["observed"].items() if row["observed"][name] != value]


def _digest(weights: Mapping[str, torch.Tensor]) -> str:
    hashed = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(weights.items()):
        hashed.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return hashed.hexdigest()
