"""app: the commands of `catdog doctor`, which examine."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from catdog import __version__
from catdog.cli.exits import EXIT_CODES
from catdog.cli.intake import dataset_of
from catdog.cli.options import Labels, labelling_of
from catdog.cli.terminal import out
from catdog.errors import BadInput
from catdog.labels import shown
from catdog.settings import Settings, described, nearest, wait_passively

if TYPE_CHECKING:
    from catdog.doctor.findings import Finding, Report

app = typer.Typer(no_args_is_help=True, invoke_without_command=True)


@app.callback()
def examine(
    context: typer.Context,
    data_source: Annotated[
        str | None, typer.Option("--data", help="A folder of photographs, a zip of them, the id of a data set, or a public collection."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME|FILE.py:Class", help="A network of `catdog models list`, or your own class or function."),
    ] = None,
    run_folder: Annotated[Path | None, typer.Option("--run", help="In place of these: a run, finished or under way.")] = None,
    image_size: Annotated[int | None, typer.Option(min=16, max=1024, help="Side of the square, in pixels; 224 for your own.")] = None,
    given: Annotated[
        Literal["images", "pixels"],
        typer.Option("--input", help="What your own forward takes: images (N, 3, S, S) float32, less ImageNet's mean and divided by its "
                     "deviation, as torchvision does; or pixels (N, S, S, 3) uint8, as catdog's networks do."),
    ] = "images",
    labels: Labels = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines for people.")] = False,
) -> None:
    """Examinations: of a network and its pictures (`--data` with `--model`), of a run (`--run`), of this machine (`system`).

    Your own class or function is called without arguments but for `labels`, their number, and `image_size`, where it has parameters of
    these names. It is given a batch of 8 of your pictures, trained for a few steps with cross-entropy and AdamW, and put back. Its file is
    run for that. An error is only what is certainly wrong; the culprit stands beside it. Of a run the report of its own examination is
    shown, and what its curves say.

    Exits 0 where nothing is certainly wrong, 3 where something is, 2 for wrong input.
    """
    if context.invoked_subcommand is not None:
        return
    if run_folder is not None and data_source is None and model is None:
        _show_run(run_folder, as_json=as_json)
        return
    if data_source is None or model is None or run_folder is not None:
        raise BadInput("Expected --data with --model, or --run alone. Received: another combination.", remedy="See catdog doctor --help.")
    settings = Settings.load()
    dataset = dataset_of(data_source, settings, labelling_of(labels))
    wait_passively()
    from catdog.datasets import Dataset
    from catdog.doctor.submission import examine_submitted

    report = examine_submitted(model, Dataset.open(settings.datasets / dataset), image_size=image_size, given=given)
    _show(report, as_json=as_json)


def _show_run(folder: Path, *, as_json: bool) -> None:
    """Read without torch."""
    from catdog import epochs
    from catdog.config import TrainConfig
    from catdog.doctor.curve import diagnose
    from catdog.doctor.findings import Report

    config = TrainConfig.read(folder)
    curve = diagnose(epochs.read(folder), config, has_ended=(folder / "metrics.json").exists())
    _show(Report.read(folder) or Report(), curve, as_json=as_json)


def _show(report: "Report", curve: "Sequence[Finding]" = (), *, as_json: bool) -> None:
    if as_json:
        out.print(json.dumps(report.to_dict() | {"curve": [asdict(finding) for finding in curve]}), soft_wrap=True)
    else:
        for line in "\n".join((*map(str, curve), str(report))).splitlines():
            out.print(shown(line), soft_wrap=True)
    if not report.is_healthy:
        raise typer.Exit(EXIT_CODES["doctor"])


@app.command()
def system(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines for people.")] = False,
) -> None:
    """Look at this machine, or at the container this runs in: is it fit for what it is set up to do?

    Prints CPUs, memory, shared memory and disk as they really are here (a container's limits, not the host's), the data folders with
    their owners, what runs compute on, and versions. Then each problem in one line with its remedy. A worker does this when it starts.

    Exits 0 when there is nothing but warnings, 3 when there is an error, 2 when the settings cannot be read.
    """
    from catdog import device, machine

    settings = Settings.load()
    here = machine.Machine.look()
    computes_on, found = device.examine(settings)
    found += machine.problems(here, settings, runs=device.has_torch())
    if as_json:
        facts = here.to_dict() | {
            "free_disk_bytes": machine.free_disk(settings.root), "computes_on": computes_on, "versions": _versions(),
            "problems": [asdict(problem) for problem in found],
        }
        out.print(json.dumps(facts), soft_wrap=True)
    else:
        limit = "no limit" if here.quota is None else f"limit {here.quota:g}"
        lines = {
            "cpus": f"{here.cpus} (cgroup: {limit}; affinity: {here.affinity})",
            "memory": f"{machine.size(here.usable_memory)} (cgroup: {'no limit' if here.memory_limit is None else 'limit'}; "
                      f"machine: {machine.size(here.memory)})",
            "shared memory": f"{machine.size(here.shared_memory)} free in /dev/shm",
            "disk": f"{machine.size(machine.free_disk(settings.root))} free where {settings.root} lies",
            "user": f"uid {os.geteuid()}, gid {os.getegid()}",
            "folders": ", ".join(described(one) for one in settings.folders if nearest(one) == one) or f"{settings.root} is not made yet",
            "computes on": computes_on,
            "versions": ", ".join(f"{name} {version}" for name, version in _versions().items()),
        }
        for name, line in lines.items():
            out.print(f"{name}: {line}", soft_wrap=True)
        for problem in found:
            out.print(problem.line(), soft_wrap=True)
    if any(problem.severity == "error" for problem in found):
        raise typer.Exit(EXIT_CODES["doctor"])


def _versions() -> dict[str, str]:
    """Of what decides how a network trains and answers; the service has no torch."""
    from catdog.machine import versions

    found = {"catdog": __version__, "python": platform.python_version()}
    return found | versions("torch", "torchvision", "onnxruntime", "onnxruntime-gpu")
