"""Images per second of training: ours beside a plain PyTorch loop, Lightning and fastai, same network, pictures and batches, in one run.

    python -m tests.bench.training --data FOLDER [--only head|full] [--images 128] [--repeats 5] [--quick] [--out FILE]
    python -m tests.bench.training --data FOLDER --gpu [--images 2048] [--batch 128]

EfficientNet-Lite0 with its pretrained weights, 224 pixels, batches of 32, fp32, all cores; once training the head alone, once all of it.
contenders.py says what each does. Each lives in a process of its own, and they take turns epoch by epoch, so that whatever else the
machine does meets all of them. Peers run with their loader in the training process and with a worker per core; after the first later
epoch the slower of the two is sent home. Compared is the median over later epochs of images per second of training, from asking for the
first batch to the last update; validation, checkpoints and what is done once stand beside it.

--gpu trains a ResNet-50 from scratch in bf16 and also says what share of the card's measured matrix ceiling that is: images/s times the
FLOPs of an image's forward and backward pass, over the quickest square bf16 product.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Self

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from catdog.config import TrainConfig
from catdog.machine import Machine
from catdog.settings import Settings, wait_passively
from catdog.sources import import_folder
from tests.bench import loading
from tests.bench.contenders import CONTENDERS, FOREVER, Lap, Task, contend

MARKS = {"head": 20.0, "full": 1.3}
"""Our later epochs against the best peer's (issue: the training loop in full)."""
SIDES = (4096, 6144, 8192)
"""Of the square matrices whose product measures the ceiling."""
PATIENCE = 900.0
"""Seconds after which a contender that says nothing is taken for stuck."""
NOTE = (
    "later: median images/s of training in later epochs. once: features of a frozen backbone or the decode cache (ours), workers, a sanity "
    "check. Peers to train the head: the middle of each picture, as ours; to train everything: random resized crop and flip, ours its own "
    "default augmentation (crop, flip, colour and more)."
)


@dataclass(slots=True)
class Row:
    """One contender with one kind of loader."""

    contender: str
    workers: int
    laps: list[Lap] = field(default_factory=list)

    @property
    def ours(self) -> bool:
        return self.contender == "catdog"

    @property
    def name(self) -> str:
        return self.contender if self.ours else f"{self.contender}, num_workers {self.workers}"

    def paces(self, images: int) -> list[float]:
        """Images per second of each later epoch."""
        return [images / lap.training for lap in self.laps[1:]]

    def pace(self, images: int) -> float:
        return statistics.median(self.paces(images))

    def median(self, part: str) -> float:
        """Seconds of a part of later epochs."""
        seconds: list[float] = [getattr(lap, part) for lap in self.laps[1:]]
        return statistics.median(seconds)

    @property
    def whole(self) -> float:
        """Seconds of a later epoch with all that belongs to it."""
        return sum(self.median(part) for part in ("training", "validation", "rest"))


class Runner:
    """The bench's end of the line to a contender's process."""

    def __init__(self, row: Row, task: Task) -> None:
        spawn = get_context("spawn")
        self.row = row
        self._line, theirs = spawn.Pipe()
        self._process = spawn.Process(target=contend, args=(row.contender, task, row.workers, theirs))
        before = os.environ.copy()
        if row.ours:
            wait_passively()  # as every run does before it imports torch
        self._process.start()
        os.environ.clear()
        os.environ.update(before)
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.is_alive():
            self._line.send(False)
            self._process.join(60)
        self._process.kill()

    def get_ready(self) -> None:
        self._hear()

    def turn(self) -> None:
        """Let it run an epoch."""
        self._line.send(True)
        lap = self._hear()
        self.row.laps.append(lap)
        Console(stderr=True).print(f"{self.row.name}: epoch {len(self.row.laps)}, {lap.training:.2f} s of training", highlight=False)

    def _hear(self) -> Any:
        try:
            said = self._line.recv() if self._line.poll(PATIENCE) else f"{self.row.name} has said nothing for {PATIENCE} s"
        except EOFError:
            said = f"{self.row.name} died"
        if isinstance(said, str) and said != "ready":
            raise SystemExit(said)
        return said


def race(task: Task, *, repeats: int, workers: Sequence[int]) -> list[Row]:
    """Every contender that is installed: a first epoch each, then `repeats` later ones in turns."""
    rows = [
        Row(name, number)
        for name in CONTENDERS if name in ("catdog", "PyTorch") or importlib.util.find_spec(name.lower())
        for number in ([0] if name == "catdog" else workers)
    ]
    runners: list[Runner] = []
    try:
        for row in rows:
            runners.append(Runner(row, task))
            runners[-1].get_ready()  # one after the other: imports would slow each other down
        for repeat in range(1 + repeats):
            for runner in runners:
                runner.turn()
            if repeat == 1:
                for runner in [runner for runner in runners if not _is_quickest(runner.row, rows)]:
                    runner.__exit__()
                    runners.remove(runner)
    finally:
        for runner in runners:
            runner.__exit__()
    return rows


def _is_quickest(row: Row, rows: Sequence[Row]) -> bool:
    return row.laps[-1].training == min(other.laps[-1].training for other in rows if other.contender == row.contender)


def ceiling(device: str, sides: Sequence[int] = SIDES, seconds: float = 1.0) -> float:
    """FLOP/s of the quickest square bf16 product."""
    best = 0.0
    for side in sides:
        one, other = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            began = time.perf_counter()
            for _ in range(10):
                product = one @ other
            product[0, 0].item()  # waits
            best = max(best, 10 * 2 * side**3 / (time.perf_counter() - began))
    return best


def flops_of(task: Task) -> float:
    """Of one image's forward and backward pass, as torch counts them: convolutions and matrix products."""
    backbone, head = task.network()
    images = torch.zeros(2, 3, task.config.image_size, task.config.image_size)
    with FlopCounterMode(display=False) as counter:
        head(backbone(images)).sum().backward()
    flops: int = counter.get_total_flops()
    return flops / 2


def report(task: Task, rows: list[Row], *, mark: float | None, top: float | None, console: Console) -> list[dict[str, Any]]:
    """Print the table and what came of the mark; a line of JSON for each row."""
    images = len(task.files("train"))
    best = max((row for row in rows if not row.ours), key=lambda row: row.pace(images))
    per_image = flops_of(task) if top else 0.0
    share = ["share of ceiling"] if top else []
    table = Table(
        "contender", "later, images/s", "least to most", "against best peer", "once s", "first epoch s", "validation s", "rest s", *share,
        title=f"{task.name}: {task.config.model}, {task.config.image_size} px, batch {task.config.batch_size}, {task.config.precision}, "
        f"{images} + {len(task.files('val'))} images",
    )
    lines = []
    for row in rows:
        pace, paces, first = row.pace(images), row.paces(images), row.laps[0]
        shares = [f"{pace * per_image / top:.3f}"] if top else []
        table.add_row(
            row.name, f"{pace:.1f}", f"{min(paces):.1f} to {max(paces):.1f}", f"{pace / best.pace(images):.2f}", f"{first.once:.1f}",
            f"{first.training:.2f}", f"{row.median('validation'):.2f}", f"{row.median('rest'):.2f}", *shares,
        )
        lines.append({
            "bench": "training", "task": task.name, "model": task.config.model, "precision": task.config.precision, "device": task.device,
            "batch": task.config.batch_size, "images": images, "contender": row.contender, "num_workers": row.workers,
            "images_per_second": round(pace, 2), "against_best_peer": round(pace / best.pace(images), 3),
            "once_seconds": round(first.once, 2), "first_epoch_seconds": round(first.training, 2),
            "training_seconds": [round(lap.training, 4) for lap in row.laps[1:]],
            "validation_seconds": round(row.median("validation"), 3), "rest_seconds": round(row.median("rest"), 3),
        } | ({"flops_per_image": per_image, "ceiling_flops": round(top), "share": round(pace * per_image / top, 4)} if top else {}))
    console.print(table)
    us = next(row for row in rows if row.ours)
    aim = f" (the mark is {mark})" if mark else f", of a ceiling of {(top or 0) / 1e12:.1f} TFLOP/s"
    whole = min(row.whole for row in rows if not row.ours) / us.whole
    console.print(
        f"ours: {us.pace(images) / best.pace(images):.2f} times the best peer, {best.name}{aim}; "
        f"whole epochs, with validation and checkpoint: {whole:.2f} times", highlight=False,
    )
    return lines


def task_of(part: str, dataset: str, settings: Settings, asked: argparse.Namespace) -> Task:
    """`head`, `full` or `gpu`."""
    gpu = part == "gpu"
    images = (asked.images or {"head": 256, "full": 128, "gpu": 2048}[part]) // asked.batch * asked.batch  # fastai leaves a ragged end out
    fields: dict[str, Any] = {
        "dataset": dataset, "model": asked.model,
        "weights": "none" if gpu else "imagenet", "trainable": "head" if part == "head" else "all",
        "image_size": asked.side, "batch_size": asked.batch, "epochs": FOREVER, "n_train": images, "n_val": asked.val_images,
        "device": asked.device, "precision": "bfloat16" if gpu else "float32",
    }
    names = {"head": "head only", "full": "full fine-tuning", "gpu": "from scratch"}
    return Task(names[part], TrainConfig.parse(fields), settings, gpu, asked.threads)


def surroundings() -> dict[str, Any]:
    """The hardware and the versions that the figures are of."""
    peers = [name for name in ("lightning", "fastai") if importlib.util.find_spec(name)]
    card = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return loading.surroundings() | {name: importlib.metadata.version(name) for name in peers} | card


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder of pictures, labelled as `catdog data import` reads it")
    parser.add_argument("--only", choices=("head", "full"))
    parser.add_argument("--images", type=int, help="an epoch's, a multiple of --batch; by default 256 (head), 128 (full) or 2048 (GPU)")
    parser.add_argument("--val-images", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5, help="later epochs")
    parser.add_argument("--quick", action="store_true", help="64 images and one later epoch: does it work, not how fast is it")
    parser.add_argument("--threads", type=int, default=Machine.look().cpus)
    parser.add_argument("--workers", type=int, nargs="+", help="the peers' num_workers; by default 0 and --threads")
    parser.add_argument("--gpu", action="store_true", help="a ResNet-50 from scratch in bf16, on the GPU unless --device says cpu")
    parser.add_argument("--device", choices=("cpu", "cuda"))
    parser.add_argument("--model")
    parser.add_argument("--side", type=int, default=loading.SIDE)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--ceiling-sides", type=int, nargs="+", default=SIDES)
    parser.add_argument("--out", type=Path, help="a file to which a line of JSON is appended for each row")
    asked = parser.parse_args(words)
    asked.device = asked.device or ("cuda" if asked.gpu else "cpu")
    asked.model = asked.model or ("resnet50" if asked.gpu else "efficientnet_lite0")
    asked.batch = asked.batch or (128 if asked.gpu else loading.BATCH)
    asked.workers = asked.workers or [0, asked.threads]
    if asked.quick:
        asked.images, asked.val_images, asked.repeats = 2 * asked.batch, 8, 1
    return asked


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print the tables, append lines of JSON."""
    asked = arguments(words)
    torch.set_num_threads(asked.threads)
    console, around = Console(), surroundings()
    parts = ["gpu"] if asked.gpu else [asked.only] if asked.only else ["head", "full"]
    with tempfile.TemporaryDirectory() as scratch:
        settings = Settings.load(data_dir=Path(scratch))
        dataset = import_folder(asked.data, settings.datasets, settings=settings)
        top = ceiling(asked.device, asked.ceiling_sides, 0.1 if asked.quick else 1.0) if asked.gpu else None
        for part in parts:
            task = task_of(part, dataset.id, settings, asked)
            rows = race(task, repeats=asked.repeats, workers=asked.workers)
            lines = report(task, rows, mark=MARKS.get(part), top=top, console=console)
            if asked.out:
                with asked.out.open("a") as file:
                    file.writelines(json.dumps(line | around) + "\n" for line in lines)
    console.print(NOTE, ", ".join(f"{name} {value}" for name, value in around.items()), sep="\n", highlight=False)


if __name__ == "__main__":
    main()
