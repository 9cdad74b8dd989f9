"""Progress, fits: what a run says while it works, one JSON line each."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

MAX_LINE_BYTES = 64 * 1024
"""A longer line is a bug or an attack; the supervisor drops it."""

Kind = Literal["phase", "step", "epoch", "checkpoint", "finding", "warning", "failed", "done"]
PHASES = ("preparing", "examining", "features", "training", "testing", "packaging", "comparing", "publishing", "predicting")
"""The phases of a run, in order; each kind of job has some of them. `publishing` is the supervisor's."""


@dataclass(frozen=True, slots=True)
class Progress:
    """One thing a run has to say. Fields that do not apply are None and are left out of the line."""

    kind: Kind
    phase: str | None = None
    """One of PHASES."""
    epoch: int | None = None
    """Finished or current epoch, counted from 1."""
    epochs: int | None = None
    step: int | None = None
    """In the phase `training`: optimizer steps so far; elsewhere: images so far."""
    steps: int | None = None
    """What `step` will be at the end of the phase."""
    train_loss: float | None = None
    train_accuracy: float | None = None
    """While training: with dropout and varied pictures, and over an epoch in which the network changes. Not comparable with val's."""
    train_eval_loss: float | None = None
    """Of a fixed part of train, measured exactly as val is: comparable. Above it lies what the network has only learnt by heart."""
    train_eval_accuracy: float | None = None
    val_loss: float | None = None
    val_accuracy: float | None = None
    val_balanced_accuracy: float | None = None
    val_auroc: float | None = None
    val_ece: float | None = None
    val_brier: float | None = None
    val_precision: list[float] | None = None
    """By label, in the order of the network's outputs, as are recall and F1."""
    val_recall: list[float] | None = None
    val_f1: list[float] | None = None
    best_epoch: int | None = None
    """The best epoch so far, by the config's best_by."""
    learning_rate: float | None = None
    train_seconds: float | None = field(default=None, compare=False)
    """Of an epoch: how long its steps took, with what came between them. Of two epochs that are otherwise the same it may differ."""
    waited_seconds: float | None = field(default=None, compare=False)
    """How much of that went by until the next batch was there."""
    images_per_second: float | None = None
    eta_seconds: float | None = None
    """Seconds to the end of the phase at the present pace."""
    path: str | None = None
    """The checkpoint's folder, relative to the run folder."""
    message: str | None = None
    code: str | None = None
    """A failure's code, one of errors.FAILURES."""
    remedy: str | None = None
    result: dict[str, Any] | None = None
    """What came of it: the device and its reason, the pictures that are used (`phase` preparing), the metrics (`done`)."""

    def to_json(self) -> str:
        """This Progress as one line of JSON, without a line break and without absent fields."""
        return json.dumps({key: value for key, value in asdict(self).items() if value is not None}, allow_nan=False)

    @classmethod
    def from_json(cls, line: str | bytes) -> Self:
        """Read one line.

        Raises:
            ValueError: not JSON, not an object, an unknown field or kind, or longer than MAX_LINE_BYTES.
        """
        if len(line) > MAX_LINE_BYTES:
            raise ValueError(f"Expected a progress line of at most {MAX_LINE_BYTES} bytes. Received: {len(line)} bytes.")
        fields = json.loads(line)
        if not isinstance(fields, dict) or fields.get("kind") not in Kind.__args__:  # type: ignore[attr-defined]
            raise ValueError(f"Expected an object with a known kind. Received: {line[:200]!r}.")
        try:
            return cls(**fields)
        except TypeError as error:
            raise ValueError(f"Expected the fields of Progress. Received: {sorted(fields)}.") from error


def fits(value: Any) -> bool:
    """Whether figures by name of label may stand in a line beside what else it says; those of a thousand labels may not."""
    return len(json.dumps(value)) <= MAX_LINE_BYTES // 4
