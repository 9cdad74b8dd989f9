"""app: the commands of `catdog models`: which networks there are, and their weights; what was published, and which of it answers."""

from typing import Annotated

import typer
from rich.table import Column, Table

from catdog.cli import published
from catdog.cli.terminal import out
from catdog.labels import shown
from catdog.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Networks and their pretrained weights; published models, and which of them answers.")
for command in (published.versions, published.history, published.promote, published.rollback):
    app.command()(command)


@app.command("list")
def list_() -> None:
    """List the networks that can be trained, and whether their pretrained weights are on this machine."""
    from catdog import catalogue, weights

    folder = Settings.load().weights
    table = Table(Column("network", no_wrap=True), "size", "parameters", Column("weights", no_wrap=True), "their licence")
    for network in (*catalogue.NETWORKS.values(), *catalogue.brought().values()):
        where, licence = "none exist", ""
        if catalogue.has_weights(network.name):
            where = "here" if weights.on_this_machine(network.name, folder) else "to be fetched"
            licence = catalogue.licence(network.name, "imagenet")
        if network.family == catalogue.USER:
            where, licence = "none known", f"of {network.package}"
        parameters = f"{network.parameters / 1e6:.1f} M" if network.parameters else "not counted"
        table.add_row(shown(network.name), str(network.image_size), parameters, where, licence)
    out.print(table)
    out.print("What is to be fetched: catdog models fetch NETWORK")


@app.command()
def fetch(name: Annotated[str, typer.Argument(help="A network of `catdog models list`.")]) -> None:
    """Download the pretrained weights of a network; goes on where an interrupted download stopped."""
    from catdog import weights
    from catdog.display import Bars
    from catdog.progress import Progress

    with Bars(out) as bars:
        path = weights.fetch(
            name, Settings.load().weights,
            progress=lambda done, total: bars.show(Progress("step", phase="download", step=done, steps=total)),
        )
    out.print(f"weights of {name}: {path}", soft_wrap=True)
