"""repeats: whether the file of the best epoch is the best epoch's. T05."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from catdog.config import TrainConfig
from catdog.doctor.findings import Culprit, Finding
from catdog.metrics import Measures, is_better

TOLERANCE = 0.01
"""Of the loss, as a share of it. Other kernels, and other batches of several processes, differ by 1e-5; another epoch by more."""
TINY = 1e-3
"""Loss below which a share of it says nothing."""


def repeats(epochs: Sequence[Mapping[str, Any]], config: TrainConfig, *, best_epoch: int, measured: Measures) -> Iterator[Finding]:
    """Compare what was measured of val with the best epoch's weights, read from their file, with what each epoch had said."""
    said = next((epoch for epoch in epochs if epoch["epoch"] == best_epoch), None)
    if said is None or said.get("val_loss") is None:
        return
    if abs(said["val_loss"] - measured.loss) > TOLERANCE * max(said["val_loss"], measured.loss, TINY / TOLERANCE):
        same = [epoch["epoch"] for epoch in epochs if abs((epoch.get("val_loss") or 0) - measured.loss) < TINY * max(measured.loss, TINY)]
        yield Finding(
            "T05", "error", f"The file of the best epoch, {best_epoch}, does not answer val as that epoch did.", Culprit("checkpoints/"),
            (f"val_loss {said['val_loss']:.6g} after epoch {best_epoch}, {measured.loss:.6g} from the file",
             f"val_accuracy {said.get('val_accuracy')} then, {measured.accuracy} now",
             f"such a loss had epoch {', '.join(map(str, same)) or 'none'}"),
            "Look at what is saved, when, and whether buffers and averages are among it.",
        )
    name = f"val_{config.best_by}"
    better = [epoch["epoch"] for epoch in epochs if is_better(config.best_by, epoch.get(name), said.get(name))]
    if config.best_by != "f1" and better:  # the epochs have only each label's F1
        yield Finding(
            "T05", "error", f"Epoch {best_epoch} was kept as the best, and epoch {better[0]} was better.", Culprit("best_by"),
            (f"{name} {said.get(name)} and {epochs_value(epochs, better[0], name)}",), "Look at how the best epoch is chosen.",
        )


def epochs_value(epochs: Sequence[Mapping[str, Any]], number: int, name: str) -> Any:
    """A measure of an epoch."""
    return next(epoch.get(name) for epoch in epochs if epoch["epoch"] == number)
