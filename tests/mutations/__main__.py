"""The mutation bench: does the doctor find what is wrong, does it name it, and does it leave the healthy alone?

    python -m tests.mutations --out rows.jsonl                 all public mutants
    python -m tests.mutations --out rows.jsonl --shard 1/4     a quarter of them; rows of the four files together are those of all
    python -m tests.mutations --out rows.jsonl --qa            whether the mutants count: silent, and not equivalent to their twins

Runs whose rows are in the file already are not made again: what was broken off goes on, and a finished file only shows its table.
"""

import argparse
import json
import os
import signal
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from catdog.doctor.consultation import BUDGET
from tests.mutations import pictures
from tests.mutations.baselines import CODES
from tests.mutations.examiners import EXAMINERS
from tests.mutations.mutants import HOSTS, PUBLIC, read_all
from tests.mutations.runs import Row, Run, in_processes, make_pretrained, runs_of
from tests.mutations.table import by_group, by_mutant, in_a_line, judge, of_proof, only

LIMIT = 600.0
"""Seconds of one run before it is killed."""

SEEDS = 3


def main() -> None:
    """Make the runs that are missing, and print what all of them say."""
    asked = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what runs is ended first
    mutants = [one for one in read_all(asked.mutants) if not asked.only or one.id in asked.only.split(",")]
    console, rows = Console(highlight=False, soft_wrap=True), _rows(asked.out)
    cache = pictures.cache_folder()
    for examiner in ["proof"] if asked.qa else asked.examiner.split(","):
        groups = runs_of(mutants, hosts=asked.hosts, seeds=asked.seeds or (1 if asked.qa else SEEDS), examiner=examiner)
        runs = [run for group in groups[asked.shard[0] - 1 :: asked.shard[1]] for run in group]
        missing = [run for run in runs if run.key not in rows]
        if any(run.host == "R" for run in missing):
            make_pretrained(cache)
        with Progress(console=console) as progress, asked.out.open("a") as file:
            task = progress.add_task(examiner, total=len(runs), completed=len(runs) - len(missing))
            for row in in_processes(missing, cache=cache, at_once=asked.at_once, limit=asked.limit, budget=asked.budget):
                rows[row["key"]] = row
                file.write(json.dumps(row) + "\n")
                file.flush()
                progress.advance(task)
        console.print(_said_by(examiner, runs, rows), markup=False)


def _said_by(examiner: str, runs: list[Run], rows: dict[str, Row]) -> str:
    if examiner in CODES:
        return "\n".join(_said_by(code, runs, {key: only(row, code) for key, row in rows.items()}) for code in CODES[examiner])
    mutated = [(run, rows[run.key], rows[run.twin.key]) for run in runs if run.mutant]
    if examiner == "proof":
        return of_proof(mutated)
    twins = [rows[run.key] for run in runs if not run.mutant]
    judgements = sorted((judge(*one) for one in mutated), key=lambda one: (one.mutant.id, one.host))
    if examiner == "doctor":
        return f"{by_mutant(judgements)}\n\n{by_group(judgements, twins)}"
    return in_a_line(examiner, judgements, twins)


def _rows(file: Path) -> dict[str, Row]:
    """Those that are there; what a killed bench left of a last line is cut off."""
    whole, _, cut = file.read_text().rpartition("\n") if file.exists() else ("", "", "")
    if cut:
        file.write_text(f"{whole}\n" if whole else "")
    return {row["key"]: row for row in map(json.loads, whole.splitlines())}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutations", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--mutants", type=Path, default=PUBLIC, metavar="FOLDER", help="of JSON files; by default the public ones")
    parser.add_argument("--only", default="", metavar="IDS", help="of these mutants only, as P01,P02")
    parser.add_argument("--hosts", default=",".join(HOSTS), help="which hosts, as U,R (default: %(default)s)")
    parser.add_argument("--seeds", type=int, help=f"by default {SEEDS}, of a proof one")
    parser.add_argument("--shard", type=_shard, default=(1, 1), metavar="I/N", help="the I-th of N parts that have nothing in common")
    parser.add_argument("--out", type=Path, default=Path("mutations.jsonl"), metavar="FILE", help="of the rows (default: %(default)s)")
    parser.add_argument("--examiner", default="doctor", help=f"one or more of {', '.join(name for name in EXAMINERS if name != 'proof')}")
    parser.add_argument("--at-once", type=int, default=len(os.sched_getaffinity(0)), help="runs side by side (default: one for each core)")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds of one run (default: %(default)s)")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds of a visit (default: %(default)s); more on a busy machine")
    parser.add_argument("--qa", action="store_true", help="prove the mutants instead")
    return parser.parse_args()


def _shard(text: str) -> tuple[int, int]:
    number, of = map(int, text.split("/"))
    if not 1 <= number <= of:
        raise argparse.ArgumentTypeError(f"Expected I/N with I from 1 to N. Received: {text}")
    return number, of


if __name__ == "__main__":
    main()
