"""run, rank: a run folder, worked through line by line of JSON: what worker and torchrun start."""

import logging
import os
import signal
import time
from collections.abc import Callable, Generator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from catdog import process
from catdog.cli.exits import EXIT_CODES, STOPPED
from catdog.cli.options import ResumeFrom
from catdog.kinds import Kind, phases
from catdog.settings import Settings, wait_passively

if TYPE_CHECKING:
    from catdog.progress import Progress

PROGRESS_LINES_PER_SECOND = 5


def run(
    folder: Annotated[Path, typer.Argument(help="A run folder with a config.json.")],
    kind: Annotated[
        Kind, typer.Option(
            help="train; examine: what a training would see, without training; predict: answer every picture; compare: a challenger with "
            "the champion.",
        ),
    ] = "train",
    fence: Annotated[int, typer.Option(min=0, help="The number of this attempt; its checkpoints go into a folder of that name.")] = 0,
    resume_from: ResumeFrom = None,
    champion: Annotated[Path | None, typer.Option(help="The package that a new model must be no worse than.")] = None,
    challenger: Annotated[Path | None, typer.Option(help="With --kind compare: the package that would replace the champion.")] = None,
) -> None:
    """Work through a run folder, printing one line of JSON a step: what the worker starts for every job.

    Lines go to standard output, everything else that is printed to standard error. SIGTERM leaves a checkpoint (exit 75).
    """

    _speak(lambda: phases(
        kind, folder, Settings.load(secrets=False), fence=fence, resume_from=resume_from, challenger=challenger, champion=champion,
    ))


def rank(
    folder: Annotated[Path, typer.Argument(help="A run folder with a config.json; of a frozen backbone the features must be in it.")],
    fence: Annotated[int, typer.Option(min=0, help="The number of this attempt.")] = 0,
) -> None:
    """Train as one of several processes, which torchrun has started; the first prints lines as `run` does."""
    process.die_with_parent(os.getppid())

    def steps() -> "Generator[Progress]":
        from catdog import ranks
        from catdog import run as training
        from catdog.doctor import gate

        prepared = training.prepare(folder, Settings.load(secrets=False))
        with ranks.join(prepared.device.name) as joined:
            if joined.is_first:
                yield from gate.examining(prepared)  # where several machines begin with this command, nobody has yet
            prepared.enter("training")
            if joined.is_first:
                yield from training.train_as(joined, prepared, fence=fence)
            else:
                # The first stops for all: it is the one that saves. Who is left without it ends by that.
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                for _ in training.train_as(joined, prepared, fence=fence):
                    pass

    _speak(steps)


def _speak(start: Callable[[], "Generator[Progress]"]) -> None:
    """Print what a run says as lines, and nothing else; leave as soon as nothing is lost by it when a signal asks."""
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not end up among the lines
    phase: list[str] = ["preparing"]
    stopping: list[int] = []

    def leave(number: int, _frame: FrameType | None) -> None:
        stopping.append(number)
        if phase[-1] != "training":
            os._exit(STOPPED)  # every finished phase's product is on disk; there is nothing to save of this one

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    wait_passively()
    said_at = 0.0
    try:
        steps = start()
        for progress in steps:
            phase.append(progress.phase or phase[-1])
            now = time.monotonic()
            if progress.kind != "step" or now - said_at >= 1 / PROGRESS_LINES_PER_SECOND:
                lines.write(progress.to_json() + "\n")
                said_at = now
            if stopping:
                steps.close()
                raise SystemExit(STOPPED)
    except Exception as error:
        from catdog.run import failure

        failed = failure(error)
        lines.write(failed.to_json() + "\n")
        logging.getLogger("catdog.run").exception("event=failed code=%s", failed.code)
        raise SystemExit(EXIT_CODES.get(failed.code or "", 1)) from error
