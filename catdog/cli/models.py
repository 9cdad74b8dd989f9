"""app: the commands of `catdog models`: which networks there are, their weights; how good a package is; what was published."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from catdog.cli import published
from catdog.cli.options import Labels, labelling_of
from catdog.cli.terminal import out
from catdog.labels import shown
from catdog.settings import Settings

if TYPE_CHECKING:
    from catdog.judgement import Judgement

app = typer.Typer(
    no_args_is_help=True,
    help="Networks and their pretrained weights; how good a model package is; published models, and which of them answers.",
)
for command in (published.versions, published.history, published.promote, published.rollback):
    app.command()(command)
LISTED = 10
"""Names of pictures of one kind."""


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


@app.command()
def judge(
    package: Annotated[Path, typer.Argument(help="A model package, such as RUN/package.")],
    data: Annotated[Path, typer.Option(help="A folder of labelled photographs that no training saw, such as the test split.")],
    strangers: Annotated[Path | None, typer.Option(help="A folder of photographs of none of the labels.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Where to draw the reliability diagram, an SVG file.")] = None,
    labels: Labels = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
) -> None:
    """Judge a model package on pictures it has not seen: is it right, does its confidence mean something, does it know strangers?

    Beside each figure stands what it is held against. The calibration error (ECE, 15 equally wide bins of confidence) of even a perfectly
    calibrated model is not 0 on few pictures: the range in which 95 of 100 such models lie is simulated, with the same confidences.
    """
    from catdog import plots
    from catdog.folders import Folder
    from catdog.inference import Predictor
    from catdog.judgement import judge as judged
    from catdog.places import is_picture
    from catdog.plans import plan

    settings = Settings.load()
    predictor = Predictor.load(package, device=settings.device)
    folder = Folder(data, settings)
    planned = plan(folder.names, labelling_of(labels or ",".join(predictor.labels)), folder.read)
    others = sorted(path for path in strangers.rglob("*") if is_picture(path.name)) if strangers is not None else []
    judgement = judged(predictor, ((data / one.name, one.label) for one in planned.pictures), others)
    figures = judgement.to_dict()
    if picture is not None:
        after, before = judgement.bins()
        picture.write_text(plots.reliability(after, ece=figures["ece"], before=before))
    if as_json:
        out.print(json.dumps(figures), soft_wrap=True)
    else:
        _show(judgement)


def _show(judgement: "Judgement") -> None:
    from catdog.judgement import FAMILIAR_ABSTAIN, STRANGE_ABSTAIN

    figures, told = judgement.to_dict(), judgement.predictor.manifest["metrics"]["test"]
    low, high = figures["ece_of_calibrated"]
    table = Table("figure", Column("here", justify="right"), "held against", title=f"{figures['images']} pictures of the labels")
    table.add_row("accuracy", f"{figures['accuracy']:.4f}", f"{told['accuracy']:.4f} on test, says the package")
    table.add_row("calibration error", f"{figures['ece']:.4f}", f"{low:.4f} to {high:.4f} of a perfectly calibrated model")
    table.add_row("", f"{figures['ece_before']:.4f}", "before calibration")
    table.add_row("Brier score", f"{figures['brier']:.5f}", f"{figures['brier_before']:.5f} before calibration")
    table.add_row("get no label", f"{figures['abstained']:.1%}", f"at most {FAMILIAR_ABSTAIN:.0%}")
    if figures["accuracy_of_given"] is not None:
        wanted = judgement.predictor.manifest["config"]["target_precision"]
        table.add_row("of the others right", f"{figures['accuracy_of_given']:.1%}", f"{wanted:.0%} wanted, by val")
    out.print(table)
    if judgement.strange:
        table = Table("figure", Column("here", justify="right"), "held against", title=f"{figures['strange_images']} pictures of none")
        table.add_row("get no label", f"{figures['strange_abstained']:.1%}", f"at least {STRANGE_ABSTAIN:.0%}")
        table.add_row("AUROC of the distance", f"{figures['auroc_of_distance']:.4f}", "0.5 by chance")
        out.print(table)
    _list("got a wrong label", judgement.mistaken)
    _list("got none", [path for path, one in judgement.familiar.items() if one.label is None])
    _list("of none of the labels, got one", [path for path, one in judgement.strange.items() if one.label is not None])
    _list("could not be read", judgement.unreadable)


def _list(what: str, paths: Sequence[Path]) -> None:
    if paths:
        more = f" and {len(paths) - LISTED} more" if len(paths) > LISTED else ""
        out.print(f"{what}: {', '.join(shown(path.name) for path in paths[:LISTED])}{more}", soft_wrap=True, markup=False)
