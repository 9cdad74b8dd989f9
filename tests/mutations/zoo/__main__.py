"""The healthy zoo: does the doctor leave the healthy alone, and do they leave as they came?

    python -m tests.mutations.zoo --out zoo.jsonl                  every configuration with four seeds
    python -m tests.mutations.zoo --out zoo.jsonl --torchvision    and every network of torchvision and of the catalogue with one
    python -m tests.mutations.zoo --only "03 ,ReZero" --seeds 1    those in whose names one of these is found

Runs whose rows, of this very doctor, are in the file already are not made again: what was broken off goes on, and a finished file only
shows its table. Ends with 1 if anybody was accused. `--shard 1/4` makes a quarter; rows of the four files together are those of all.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tests.mutations.zoo.menagerie import CONFIGURATIONS
from tests.mutations.zoo.networks import networks
from tests.mutations.zoo.runs import BUDGET, Row, Run, row_of, runs_of, version
from tests.mutations.zoo.table import errors, table, warned


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the runs that are missing, and print what all of them say. Returns 1 if anybody was accused."""
    asked = _arguments(arguments)
    only = [part for part in asked.only.split(",") if part]
    runs = runs_of(CONFIGURATIONS, seeds=asked.seeds, only=only)
    runs += runs_of(networks() if asked.torchvision else (), seeds=1, only=only)
    runs = runs[asked.shard[0] - 1 :: asked.shard[1]]
    console, rows = Console(highlight=False), {(row["name"], row["seed"]): row for row in _read(asked.out)}
    missing = [run for run in runs if run.key not in rows]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress, asked.out.open("a") as file:
        task = progress.add_task("zoo", total=len(runs), completed=len(runs) - len(missing))
        for run in missing:
            progress.update(task, description=run.configuration.name)
            row = rows[run.key] = row_of(run, budget=asked.budget)
            file.write(json.dumps(row) + "\n")
            file.flush()
            progress.advance(task)
            progress.print(_line(run, row), markup=False)
    there = [rows[run.key] for run in runs]
    if not there:
        console.print(f"Expected parts of the names of configurations. Received: {asked.only}, which none has.")
        return 2
    console.print(table(there))
    return int(any(map(errors, there)))


def _line(run: Run, row: Row) -> str:
    said = [*(f"ERROR {text.splitlines()[0]}" for text in errors(row)), *(f"{one.code} {one.message}" for one in warned(row))]
    return f"{row['seconds']:5.1f} s  {run.configuration.name}, seed {run.seed}" + "".join(f"\n         {text}" for text in said)


def _read(file: Path) -> Iterator[Row]:
    rows = map(json.loads, file.read_text().splitlines() if file.exists() else ())
    yield from (row for row in rows if row["version"] == version())


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutations.zoo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=4, help="of every configuration (default: %(default)s)")
    parser.add_argument("--only", default="", metavar="NAME,...", help="parts of names")
    parser.add_argument("--shard", type=_shard, default=(1, 1), metavar="I/N", help="the I-th of N parts")
    parser.add_argument("--out", type=Path, default=Path("zoo.jsonl"), metavar="FILE.jsonl", help="of rows (default: %(default)s)")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds of a visit; more on a busy machine (default: %(default)s)")
    parser.add_argument("--torchvision", action="store_true", help="every network of torchvision and of the catalogue as well")
    return parser.parse_args(arguments)


def _shard(text: str) -> tuple[int, int]:
    number, of = map(int, text.split("/"))
    if not 1 <= number <= of:
        raise argparse.ArgumentTypeError(f"Expected I/N with I from 1 to N. Received: {text}")
    return number, of


if __name__ == "__main__":
    sys.exit(main())
