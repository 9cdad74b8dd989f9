"""Run, runs_of, in_processes: a host in a process of its own, looked at by one examiner.

Processes are forked from one that has imported torch and has one thread, so that a run begins in a moment and no run sees another's
modules, generators or files. What an examiner says becomes a row, a JSON object:

    {"key": ..., "examiner": "doctor", "mutant": "P01" or null for the healthy twin, "host": "U", "seed": 0, "outcome": "done",
     "seconds": 3.1, "cpu": 2.9, ...what the examiner says}
"""

import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from tests.mutations import pictures
from tests.mutations.examiners import EXAMINERS
from tests.mutations.mutants import Mutant, Setting, write_host

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """One host, healthy or not, with one seed."""

    examiner: str
    host: str
    seed: int
    setting: Setting = field(default_factory=dict)
    mutant: Mutant | None = None

    @property
    def twin(self) -> "Run":
        """The healthy run beside it."""
        return Run(self.examiner, self.host, self.seed, self.setting)

    @property
    def key(self) -> str:
        """The name of its row."""
        return json.dumps([self.examiner, self.mutant and self.mutant.id, self.host, self.seed, self.setting], sort_keys=True)


def runs_of(mutants: Sequence[Mutant], *, hosts: str, seeds: int, examiner: str) -> list[list[Run]]:
    """Groups that need nothing of each other: a healthy run, and behind it the mutants of that host, seed and setting."""
    groups: dict[str, list[Run]] = {}
    for seed in range(seeds):
        for mutant in mutants:
            for host in mutant.hosts:
                if host in hosts:
                    run = Run(examiner, host, seed, mutant.setting, mutant)
                    groups.setdefault(run.twin.key, [run.twin]).append(run)
    return list(groups.values())


def in_processes(runs: Sequence[Run], *, cache: Path, at_once: int, limit: float, budget: float) -> Iterator[Row]:
    """Make runs, `at_once` side by side; yields their rows as they come. A run of more than `limit` seconds is killed.

    The examiner is told that it has `budget` seconds.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.mutations.runs", "torchvision.transforms"])
    waiting, living = list(reversed(runs)), dict[Connection, tuple[Run, BaseProcess, Path, float]]()
    try:
        while waiting or living:
            while waiting and len(living) < at_once:
                ours, theirs = context.Pipe(duplex=False)
                folder = Path(tempfile.mkdtemp(prefix="host-"))
                process: BaseProcess = context.Process(target=_make, args=(waiting[-1], cache, folder, budget, theirs))
                process.start()
                theirs.close()
                living[ours] = (waiting.pop(), process, folder, time.monotonic())
            ready = wait(living, timeout=1)
            now = time.monotonic()
            for connection in [one for one, (_, _, _, began) in living.items() if one in ready or now - began > limit]:
                run, process, folder, began = living.pop(connection)
                try:
                    row = _row(run, connection, time.monotonic() - began, is_over=connection not in ready)
                finally:
                    _end(process, folder)
                yield row
    finally:
        for _, process, folder, _ in living.values():
            _end(process, folder)


def _row(run: Run, connection: Connection, seconds: float, *, is_over: bool) -> Row:
    said: Row = {"outcome": "killed", "why": f"more than {seconds:.0f} s"}
    if not is_over:
        try:
            said = connection.recv()
        except EOFError:
            said = {"outcome": "died"}
    return {
        "key": run.key, "examiner": run.examiner, "mutant": run.mutant and run.mutant.id, "host": run.host, "seed": run.seed,
        "seconds": round(seconds, 2), **said,
    }


def _end(process: BaseProcess, folder: Path) -> None:
    """A run, what it has started and what it has written."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid or 0, signal.SIGKILL)
    process.join()
    shutil.rmtree(folder, ignore_errors=True)


def _make(run: Run, cache: Path, folder: Path, budget: float, answer: Connection) -> None:
    os.setpgrp()
    multiprocessing.set_start_method("fork", force=True)  # as in every user's script; here it would be that of this bench
    torch.set_num_threads(1)
    tempfile.tempdir = str(folder)
    began = time.monotonic()
    try:
        code = Path(tempfile.mkdtemp(prefix="project-"))
        with (folder / "output.txt").open("w") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        write_host(code, run.host, config_of(run, cache), run.mutant, pictures.draw(run.setting.get("pictures", "mixed"), cache))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            said = EXAMINERS[run.examiner](code, budget)
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        cpu = sum(one.ru_utime + one.ru_stime for one in used)
        answer.send({"outcome": "done", "seconds": round(time.monotonic() - began, 2), "cpu": round(cpu, 2), **said})
    except Exception as error:  # noqa: BLE001 - whatever a mutant or an examiner raises is its result
        answer.send({"outcome": "failed", "why": "".join(traceback.format_exception(error))[-1500:]})


def config_of(run: Run, cache: Path) -> Setting:
    """What the host's config says."""
    config = {name: value for name, value in run.setting.items() if name != "pictures"}
    pretrained = {"pretrained": str(cache / "pretrained.pt")} if run.host == "R" else {}
    return {"seed": run.seed, **pretrained, **config}


def make_pretrained(cache: Path) -> None:
    """The weights that host R starts from: an epoch of it on other pictures."""
    file = cache / "pretrained.pt"
    if not file.exists():
        with tempfile.TemporaryDirectory() as folder:
            write_host(Path(folder), "R", {"seed": 99, "epochs": 1}, None, pictures.draw("elsewhere", cache))
            process = multiprocessing.get_context("spawn").Process(target=_pretrain, args=(Path(folder), file))
            process.start()
            process.join()
        if not file.exists():
            raise RuntimeError(f"Expected {file} to be made. Received: exit code {process.exitcode} of the training")


def _pretrain(folder: Path, file: Path) -> None:
    torch.set_num_threads(1)
    sys.path.insert(0, str(folder))
    import train  # type: ignore[import-not-found]

    train.main(folder / "config.json", folder)
    weights = torch.load(folder / "best.pt", weights_only=True)["model"]
    backbone = {name.removeprefix("backbone."): tensor for name, tensor in weights.items() if name.startswith("backbone.")}
    made = file.with_suffix(f".{os.getpid()}")
    torch.save(backbone, made)
    made.replace(file)
