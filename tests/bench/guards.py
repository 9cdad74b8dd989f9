"""What the doctor's guards cost: their share of a training step, and what the loop takes with them and without.

    python -m tests.bench.guards [--looks 60] [--threads 2] [--out FILE]

Each network makes the loop's own steps on random pictures or features; the guards are asked after every step, as in a run, and the time of
both is taken apart. What is compared are medians: of a step, of a glance that looks at nothing, and of the two looks in EVERY steps. The
mark is 1 % (issue: doctor). The head on features is the hardest case: its step is the shortest there is.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Column, Table
from torch import nn

from catdog import loop, models
from catdog.config import TrainConfig
from catdog.doctor.attendance import Attendance
from catdog.doctor.guards import EVERY, Guards
from catdog.learner import Learner
from catdog.progress import Progress
from catdog.ranks import ALONE
from catdog.state import State
from tests.bench.loading import surroundings

MARK = 0.01
BATCH = 32
CASES = (("efficientnet_lite0", "head", 0), ("squeezenet1_1", "all", 64), ("efficientnet_lite0", "all", 96))
"""Network, what of it is trained, side of the pictures."""


@dataclass(frozen=True)
class Row:
    """Median seconds of a step, and what the guards add to it."""

    name: str
    step: float
    guards: float

    @property
    def share(self) -> float:
        """Of the guards, in what a step takes without them."""
        return self.guards / self.step


def measure(model: str, trainable: str, side: int, *, looks: int) -> Row:
    """Train until the guards have looked so often, and time both."""
    config = TrainConfig.parse({"dataset": "ds_" + "0" * 32, "model": model, "weights": "none", "trainable": "all", "batch_size": BATCH})
    network: nn.Module
    target = torch.arange(BATCH) % 2
    if trainable == "head":
        network, inputs = nn.Linear(1280, 2), torch.randn(BATCH, 1280)
    else:
        network = models.build(model, labels=("cat", "dog"), weights="none", image_size=side, weights_folder=None)
        inputs = torch.randint(0, 256, (BATCH, side, side, 3), dtype=torch.uint8)
    learner = Learner.build(network, config, targets=target, labels=2, device="cpu", ranks=ALONE)
    attendance, state, taken = Attendance(), State(), _Taken([], [], [])
    guards = Guards(learner.network, config, attendance, declared={"train": BATCH}, is_resumed=False)
    learner.set_rate(config.learning_rate)
    for number in range(looks):
        # Of a hundred steps those that are looked at, and a few of the others.
        for step in (EVERY * number + one for one in (2, 3, 4, EVERY, EVERY + 1)):
            began = time.perf_counter()
            loop.train_step(learner, inputs, target, images=BATCH, state=state)
            taken.steps.append(time.perf_counter() - began)
            said = Progress("step", phase="training", step=step, learning_rate=config.learning_rate)
            began = time.perf_counter()
            attendance.note("train", range(BATCH))
            for _ in guards.of(said):
                pass
            (taken.looks if step % EVERY < 2 else taken.glances).append(time.perf_counter() - began)
    name = f"{model}, {trainable}" + (f", {side} pixels" if side else " on features")
    return Row(name, median(taken.steps), median(taken.glances) + 2 * median(taken.looks) / EVERY)


class _Taken(NamedTuple):
    steps: list[float]
    glances: list[float]
    looks: list[float]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, append a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--looks", type=int, default=60, help="of the head; the others are looked at a tenth as often")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="a file to which a line of JSON is appended")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    table = Table("what is trained", *(Column(title, justify="right") for title in ("ms a step", "µs of guards", "share")))
    rows = []
    for model, trainable, side in CASES:
        rows.append(row := measure(model, trainable, side, looks=asked.looks if not side else max(2, asked.looks // 10)))
        table.add_row(row.name, f"{1e3 * row.step:.2f}", f"{1e6 * row.guards:.1f}", f"{row.share:.3%}")
    around = surroundings()
    console = Console()
    console.print(table)
    console.print(", ".join(f"{name} {value}" for name, value in around.items()), highlight=False)
    console.print(f"at most {max(row.share for row in rows):.3%} of a step (the mark is {MARK:.0%})", highlight=False)
    if asked.out:
        with asked.out.open("a") as file:
            file.write(json.dumps({"bench": "guards", "share": {row.name: round(row.share, 6) for row in rows}, **around}) + "\n")


if __name__ == "__main__":
    main()
