"""find_rate, compare_devices: what `catdog train` answers instead of training."""

from typing import TYPE_CHECKING

from rich.table import Column, Table

from catdog.cli.terminal import out
from catdog.errors import BadInput

if TYPE_CHECKING:
    from catdog.run import Prepared


def find_rate(prepared: "Prepared") -> None:
    """Let the learning rate rise, and say where the loss falls fastest."""
    from catdog import plots, probe
    from catdog.display import Bars
    from catdog.progress import Progress
    from catdog.run import features

    found = None
    with Bars(out) as bars:
        for progress in features(prepared):
            bars.show(progress)
        for number, found in enumerate(probe.range_test(
            prepared.network, prepared.split("train"), prepared.config, labels=len(prepared.dataset.labels), device=prepared.device.name,
        ), 1):
            bars.show(Progress("step", phase="find rate", step=number, steps=probe.STEPS, train_loss=found.losses[-1]))
    if found is None:
        raise BadInput("Expected a finite loss at the lowest learning rate. Received: none.", remedy="Look at the data set first.")
    picture = prepared.folder / "learning_rates.svg"
    picture.write_text(plots.learning_rates(found.rates, found.losses, proposed=found.proposed))
    proposed = "no rate at which the loss falls" if found.proposed is None else f"learning_rate={found.proposed:.2g}"
    out.print(f"proposed: {proposed} (the config has {prepared.config.learning_rate:g}); the curve: {picture}", soft_wrap=True)


def compare_devices(prepared: "Prepared") -> None:
    """Show the same steps on the CPU and on the GPU side by side."""
    from catdog import device, probe
    from catdog.display import Bars
    from catdog.run import features

    with Bars(out) as bars:
        for progress in features(prepared):
            bars.show(progress)
    table = Table("step", *(Column(f"loss on {name}", justify="right") for name in device.COMPARED), "weights differ by at most")
    for number, one in enumerate(probe.compare_devices(
        prepared.network, prepared.split("train"), prepared.config, labels=len(prepared.dataset.labels), devices=device.COMPARED,
    ), 1):
        table.add_row(str(number), *(f"{loss:.6f}" for loss in one.losses), f"{one.difference:.1e}")
    out.print(table)
