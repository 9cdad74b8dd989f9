"""State: where the training loop is, which epoch was the best, and whether there is a further one."""

from dataclasses import dataclass, field
from typing import Any, Self

from catdog.config import AND, TrainConfig
from catdog.metrics import Measures, Tally, is_better


@dataclass(slots=True)
class State:
    """Where the loop is. Together with weights, optimiser and random generators it is all that a resume needs."""

    epoch: int = 0
    """Finished epochs."""
    batch: int = 0
    """Finished batches of the epoch under way."""
    step: int = 0
    """Optimizer steps so far."""
    tally: Tally = field(default_factory=Tally)
    """Training loss and accuracy of the epoch under way."""
    best_epoch: int = 0
    best_step: int = 0
    best_value: float | None = None
    """Of the best epoch the measure of val that the config calls best_by."""
    waiting_value: float | None = None
    """The same of the last epoch that was better by min_delta."""
    waited: int = 0
    """Epochs since."""
    seconds: float = 0.0
    """Spent on training, all attempts together."""
    micro_batch: int = 0
    """Images that fit into memory at once; 0: as the config says."""
    halvings: int = 0
    """How often memory has run out."""
    scaler: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Read what `asdict` wrote into a checkpoint."""
        return cls(**fields | {"tally": Tally(**fields["tally"])})

    def stop_reason(self, config: TrainConfig) -> str | None:
        """Why there is no further epoch: the fields among epochs, patience and max_minutes that end it, joined by AND; None: there is."""
        ended = {
            "epochs": self.epoch >= config.epochs,
            "patience": config.patience is not None and self.waited >= config.patience,
            "max_minutes": self.epoch > 0 and not self.batch and self.is_out_of_time(config),
        }
        return AND.join(field for field, is_over in ended.items() if is_over) or None

    def is_out_of_time(self, config: TrainConfig) -> bool:
        """Whether the budget is used up."""
        return config.max_minutes is not None and self.seconds >= 60 * config.max_minutes

    def note(self, val: Measures, config: TrainConfig) -> None:
        """Finish an epoch; keep it as the best so far if it is."""
        self.epoch, self.batch, self.waited, value = self.epoch + 1, 0, self.waited + 1, val.by(config.best_by)
        if is_better(config.best_by, value, self.best_value):
            self.best_value, self.best_epoch, self.best_step = value, self.epoch, self.step
        if is_better(config.best_by, value, self.waiting_value, by=config.min_delta):
            self.waiting_value, self.waited = value, 0
