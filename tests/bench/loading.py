"""Images per second into the loop: ours beside a plain torchvision pipeline, on the same pictures in the same run.

    python -m tests.bench.loading --data FOLDER [--images 1000] [--repeats 5] [--threads 2] [--out FILE]

Theirs is what torchvision's documentation gives for training a classifier: RandomResizedCrop(224, antialias=True),
RandomHorizontalFlip, to tensor, float, Normalize; in a Dataset as ImageFolder's, a DataLoader, batches of 32. It is tried with PIL images
as ImageFolder opens them, and with tensors from decode_image, which its documentation calls quicker; with the loop's own process and with
as many workers as we have threads, started before the clock. Each repeat runs every pipeline once over all pictures, in turn, so that
whatever else the machine does meets all of them; what is compared is the median.
"""

import argparse
import importlib.metadata
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.data import DataLoader
from torchvision.io import decode_image
from torchvision.transforms import v2

from catdog import loaders
from catdog.cache import Cache
from catdog.datasets import Dataset, Record
from catdog.images import Preprocess
from catdog.loaders import Pictures
from catdog.machine import Machine
from catdog.settings import Settings
from catdog.sources import import_folder

BATCH = 32
SIDE = 224
MARK = 3.0
"""Our later epochs, augmented, against the best torchvision setting (issue: data)."""
NOTE = (
    "Ours are uint8 batches (N, 224, 224, 3): normalising is the network's first layer and costs nothing here. Theirs are normalised "
    "float32 batches, as their network takes them. Each with its own augmentation; the first epoch builds our cache."
)


class Folder(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """What torchvision.datasets.ImageFolder does, for a list of files."""

    def __init__(self, files: list[tuple[Path, int]], load: Callable[[Path], Any], transform: nn.Module) -> None:
        self._files, self._load, self._transform = files, load, transform

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        path, target = self._files[position]
        image: torch.Tensor = self._transform(self._load(path))
        return image, target


def pil(path: Path) -> Image.Image:
    """ImageFolder's default loader."""
    with path.open("rb") as file:
        return Image.open(file).convert("RGB")


def tensor(path: Path) -> torch.Tensor:
    """What the documentation of transforms v2 begins with."""
    image: torch.Tensor = decode_image(str(path), mode="RGB")
    return image


def preset(*to_tensor: nn.Module) -> nn.Module:
    """The documentation's transforms for training a classifier."""
    transforms: nn.Module = v2.Compose([
        v2.RandomResizedCrop(size=(SIDE, SIDE), antialias=True), v2.RandomHorizontalFlip(p=0.5), *to_tensor,
        v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
    ])
    return transforms


def torchvision_pipelines(files: list[tuple[Path, int]], threads: int) -> dict[str, Callable[[int], int]]:
    """An epoch of each, by name."""
    pipelines: dict[str, Callable[[int], int]] = {}
    for kind, load, transform in (("PIL", pil, preset(v2.ToImage())), ("tensors", tensor, preset())):
        for workers in (0, threads):
            loader = DataLoader(
                Folder(files, load, transform), batch_size=BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0,
            )
            pipelines[f"torchvision, {kind}, num_workers {workers}"] = partial(theirs, loader)
    return pipelines


def theirs(loader: DataLoader[tuple[torch.Tensor, int]], _epoch: int) -> int:
    """An epoch of a DataLoader."""
    return sum(len(target) for _, target in loader)


def ours(dataset: Dataset, records: list[Record], cache: Cache, augment: str, threads: int) -> Callable[[int], int]:
    """An epoch from the cache."""
    split = loaders.pixels(Pictures(dataset, records, Preprocess(SIDE), augment), threads=threads, cache=cache)

    def epoch(number: int) -> int:
        order = loaders.shuffled(len(split), seed=0, epoch=number)
        return sum(len(target) for _, target in split.batches(split.plan(BATCH, order), epoch=number))

    return epoch


def first_epoch(dataset: Dataset, records: list[Record], cache: Cache, augment: str, threads: int) -> float:
    """Images per second of filling the cache and the first pass over it."""
    began = time.perf_counter()
    for _ in loaders.fill(Pictures(dataset, records, Preprocess(SIDE), augment), cache=cache, threads=threads, phase="features"):
        pass
    return ours(dataset, records, cache, augment, threads)(0) / (time.perf_counter() - began)


@dataclass(frozen=True, slots=True)
class Row:
    """One pipeline: images per second, once for each repeat."""

    name: str
    paces: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.paces)


def measure(dataset: Dataset, *, images: int, repeats: int, threads: int, scratch: Path) -> list[Row]:
    """Every pipeline in turn, `repeats` times."""
    records = list(dataset.records)[:images]
    files = [(dataset.path(record), dataset.target(record)) for record in records]
    pipelines = torchvision_pipelines(files, threads)
    rows: dict[str, list[float]] = {}
    for epoch in pipelines.values():
        epoch(0)  # starts the workers and reads the files once from the disk, for all
    for repeat in range(repeats):
        cache = Cache(scratch / str(repeat), 2**40)
        for augment in ("default", "none"):
            name = f"catdog, augment {augment}"
            rows.setdefault(f"{name}, first epoch", []).append(first_epoch(dataset, records, cache, augment, threads))
            pipelines[f"{name}, later epochs"] = ours(dataset, records, cache, augment, threads)
        for name, epoch in pipelines.items():
            began = time.perf_counter()
            rows.setdefault(name, []).append(epoch(repeat + 1) / (time.perf_counter() - began))
    return [Row(name, paces) for name, paces in rows.items()]


def surroundings() -> dict[str, Any]:
    """The hardware and the versions that the figures are of."""
    names = ("torch", "torchvision", "pillow", "numpy", "opencv-python-headless")
    cpu = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "")
    return {
        "cpu": cpu or platform.processor(), "cpus": Machine.look().cpus, "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in names},
    }


def main() -> None:
    """Measure, print the table, append a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder of pictures, labelled as `catdog data import` reads it")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="a file to which a line of JSON is appended")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    with tempfile.TemporaryDirectory() as scratch:
        dataset = import_folder(asked.data, Path(scratch) / "datasets", settings=Settings.load(data_dir=Path(scratch)))
        rows = measure(dataset, images=asked.images, repeats=asked.repeats, threads=asked.threads, scratch=Path(scratch) / "cache")
    best = max((row for row in rows if row.name.startswith("torchvision")), key=lambda row: row.median)
    table = Table("pipeline", "images/s", "least to most", "against best")
    for row in rows:
        table.add_row(row.name, f"{row.median:.0f}", f"{min(row.paces):.0f} to {max(row.paces):.0f}", f"{row.median / best.median:.2f}")
    ratio = next(row.median for row in rows if row.name == "catdog, augment default, later epochs") / best.median
    around = surroundings()
    console = Console()
    console.print(table)
    console.print(NOTE, ", ".join(f"{name} {value}" for name, value in around.items()), sep="\n", highlight=False)
    console.print(f"later epochs, augmented: {ratio:.2f} times the best of theirs, {best.name} (the mark is {MARK})", highlight=False)
    if asked.out:
        line = {
            "bench": "loading", "images": asked.images, "repeats": asked.repeats, "threads": asked.threads, "ratio": round(ratio, 3),
            "images_per_second": {row.name: [round(pace, 1) for pace in row.paces] for row in rows}, **around,
        }
        with asked.out.open("a") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
