"""app: the commands of `catdog data`, which make data sets and look at them."""

import json
import math
import re
import resource
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from catdog.cli.exits import EXIT_CODES, STOPPED
from catdog.cli.intake import check_no_options, dataset_of, fetched
from catdog.cli.options import Labels, Pattern, RuleOption, Seed, SkipUnlabelled, fields_of, labelling_of
from catdog.cli.terminal import REPORTED_NAMES, err, out
from catdog.errors import BadInput, Unavailable
from catdog.labels import shown
from catdog.settings import Settings, wait_passively

IMPORT_MEMORY_BYTES = 4 * 2**30
IMPORT_SLACK_SECONDS = 30
"""Beside a picture's own time: for reading it, and for the disk to keep up."""

app = typer.Typer(no_args_is_help=True, help="Data sets: draw pictures, fetch public ones, import folders and archives.")


@app.command()
def draw(
    folder: Annotated[Path, typer.Argument(help="Where the pictures go; it is made if it is missing.")],
    count: Annotated[int, typer.Option(min=2, max=1_000_000, help="How many pictures, half cats, half dogs.")] = 240,
    size: Annotated[int, typer.Option(min=32, max=2048, help="Side in pixels.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same pictures.")] = 0,
) -> None:
    """Draw pictures of cats and dogs, for machines without photographs and without a network."""
    from catdog import sources
    from catdog.display import Bars
    from catdog.progress import Progress

    with Bars(out) as bars:
        sources.draw(
            folder, count=count, size=size, seed=seed,
            progress=lambda done, total: bars.show(Progress("step", phase="draw", step=done, steps=total)),
        )
    out.print(f"{count} pictures in {folder}", soft_wrap=True)


@app.command()
def fetch(
    name: Annotated[str | None, typer.Argument(help="A public collection; without one they are listed.")] = None,
) -> None:
    """Download a public collection of photographs; goes on where an interrupted download stopped."""
    from catdog.corpora import CORPORA

    if name is None:
        table = Table(Column("collection", no_wrap=True), "what", "its licence")
        for corpus in CORPORA.values():
            table.add_row(corpus.name, corpus.title, corpus.licence)
        out.print(table)
        return
    path = fetched(name, Settings.load())
    out.print(f"{name}: {path}", soft_wrap=True)
    out.print(f"import it: catdog data import {name}", soft_wrap=True)


@app.command("import")
def import_(
    source: Annotated[str, typer.Argument(help="A folder of photographs, a zip of them, or a name that `catdog data fetch` lists.")],
    labels: Labels = None, rule: RuleOption = "auto", pattern: Pattern = None, skip_unlabelled: SkipUnlabelled = False, seed: Seed = 0,
) -> None:
    """Import photographs as a data set and print its id."""
    labelling = labelling_of(labels, rule=rule, pattern=pattern, unlabelled="skip" if skip_unlabelled else "refuse")
    out.print(dataset_of(source, Settings.load(), labelling, seed))


@app.command()
def report(
    source: Annotated[str, typer.Argument(help="A folder of photographs, a zip of them, or the id of an imported data set.")],
    html: Annotated[Path, typer.Option("--html", help="Where the page goes that people look at.")] = Path("report.html"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole report as JSON.")] = False,
    labels: Labels = None, rule: RuleOption = "auto", pattern: Pattern = None, skip_unlabelled: SkipUnlabelled = False, seed: Seed = 0,
) -> None:
    """Say what is in a folder of photographs, what would be left out and why, and what to look at. Nothing is imported or changed.

    Exits 0 when a data set would come of it, 3 when it would be refused.
    """
    from catdog import sources
    from catdog.config import DATASET_ID
    from catdog.display import Bars
    from catdog.progress import Progress

    labelling = labelling_of(labels, rule=rule, pattern=pattern, unlabelled="skip" if skip_unlabelled else "refuse")
    if re.fullmatch(DATASET_ID, source):
        check_no_options(source, labelling)
    _check_output(html)
    with Bars(err) as bars:
        summary, page = sources.report(
            source, settings=Settings.load(), labelling=labelling, seed=seed,
            progress=lambda done, total: bars.show(Progress("step", phase="examine", step=done, steps=total)),
        )
    html.write_bytes(page)
    if as_json:
        out.print(json.dumps(summary), soft_wrap=True)
    else:
        _show_report(summary)
        out.print(f"pictures of all this: {html}", soft_wrap=True)
    if summary["verdict"] != "ready":
        raise typer.Exit(EXIT_CODES["doctor"])


@app.command()
def sheet(
    source: Annotated[str, typer.Argument(help="A folder of photographs, a zip of them, or the id of an imported data set.")],
    picture: Annotated[Path, typer.Option("--out", help="Where the picture goes.")] = Path("contact_sheet.png"),
    settings_of_run: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="A field of the config, such as augment=strong; repeatable."),
    ] = None,
    labels: Labels = None,
) -> None:
    """Draw what a network would see of the photographs: as it is validated, and as it is trained. A folder or zip is imported for that."""
    from catdog.config import TrainConfig

    _check_output(picture, suffixes=(".png", ".jpg", ".jpeg", ".webp"))
    settings = Settings.load()
    fields = {"trainable": "all", **fields_of(settings_of_run or [])}
    config = TrainConfig.parse({"dataset": dataset_of(source, settings, labelling_of(labels)), **fields})
    wait_passively()
    from catdog import examination

    examination.draw_sheet(config, settings).save(picture)
    out.print(f"{picture}: augment={config.augment}, geometry={config.geometry}, image_size={config.image_size}", soft_wrap=True)


def _check_output(path: Path, suffixes: tuple[str, ...] = ()) -> None:
    """Before the work: what comes of it must have a place."""
    if not path.absolute().parent.is_dir() or path.is_dir():
        raise BadInput(f"Expected a file in a folder that is there. Received: {path}.", remedy="Make the folder, or name another file.")
    if suffixes and path.suffix.lower() not in suffixes:
        raise BadInput(f"Expected a picture's name ({', '.join(suffixes)}). Received: {path}.", remedy="Name another file.")


def _show_report(summary: dict[str, Any]) -> None:
    table = Table("label", *(Column(split, justify="right") for split in summary["counts"]))
    for label in summary["labels"]:
        table.add_row(label, *(str(counts[label]) for counts in summary["counts"].values()))
    out.print(table)
    for finding in summary["findings"]:
        names = finding["names"]
        out.print(f"{finding['severity']}: {shown(finding['message'])} {finding['advice']}", soft_wrap=True)
        for name in names[:REPORTED_NAMES]:
            out.print(f"    {shown(name)}", soft_wrap=True)
        if len(names) > REPORTED_NAMES:
            out.print(f"    and {len(names) - REPORTED_NAMES} more (--json names all)")
    out.print(f"{summary['images']} pictures, {len(summary['refused'])} files left out: {summary['verdict']}")


@app.command(hidden=True)
def accept(folder: Annotated[Path, typer.Argument(help="The folder of an upload: request.json, and archive.zip or nothing.")]) -> None:
    """Turn an accepted upload into a data set; what the service starts for each."""
    from catdog import sources

    settings = Settings.load(secrets=False)
    resource.setrlimit(resource.RLIMIT_AS, (IMPORT_MEMORY_BYTES, IMPORT_MEMORY_BYTES))

    def go_on(done: int, total: int) -> None:
        # Without a handler the alarm ends this process, also one that hangs inside a decoder; the service counts its deaths.
        signal.alarm(math.ceil(settings.decode_seconds) + IMPORT_SLACK_SECONDS if done < total else 0)

    try:
        sources.accept(folder, settings, progress=go_on)
    except Unavailable as error:
        sys.stderr.write(f"error: {error.message} {error.remedy}\n")
        raise typer.Exit(STOPPED) from error
