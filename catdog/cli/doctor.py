"""app: the commands of `catdog doctor`, which examine."""

import json
import os
import platform
from dataclasses import asdict
from typing import Annotated

import typer

from catdog import __version__
from catdog.cli.exits import EXIT_CODES
from catdog.cli.terminal import out
from catdog.settings import Settings, described, nearest

app = typer.Typer(no_args_is_help=True, help="Examinations: is this machine fit to train and to serve?")


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
