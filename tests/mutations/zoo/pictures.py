"""striped, drawn: pictures with two labels, as tensors and as files.

A picture of label 0 is striped from top to bottom, one of label 1 from side to side, in any colour and phase, with noise: no single
pixel tells the label, and a small network learns it.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import IO

import torch
from PIL import Image, ImageOps
from torch import Tensor

from catdog.doctor.patient import Batch
from catdog.drawing import draw_picture

LABELS = ("cat", "dog")


def striped(seed: int, *, images: int = 8, side: int = 32, channels: int = 3, labels: int = 2) -> Batch:
    """(N, channels, S, S) float of about mean 0 and deviation 1, and (N,) int64 with all labels in turn; more labels than two slant."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.arange(images) % labels
    angle = target * torch.pi / labels
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    phase, period = (torch.rand(images, 1, 1, generator=generator) for _ in range(2))
    place = columns * angle.cos().view(-1, 1, 1) + rows * angle.sin().view(-1, 1, 1)
    stripes = torch.sin(2 * torch.pi * (place / (5 + 3 * period) + phase))
    colour = torch.randn(images, channels, 1, 1, generator=generator)
    noise = torch.randn(images, channels, side, side, generator=generator)
    return 0.8 * stripes.unsqueeze(1) + 0.3 * colour + 0.5 * noise, target


def drawn(name: str, counts: Mapping[str, Sequence[int]], *, side: int = 64) -> Path:
    """A folder of drawn cats and dogs: name/split/cat.0001.png, as many a label as `counts` says of each split. Drawn once."""
    folder = cache() / name
    if not folder.exists():
        made = Path(tempfile.mkdtemp(dir=cache()))
        random = Random(name)
        for split, numbers in counts.items():
            (made / split).mkdir()
            for label, count in zip(LABELS, numbers, strict=True):
                for number in range(count):
                    draw_picture(label, random, side).save(made / split / f"{label}.{number:04d}.png")
        _keep(made, folder)
    return folder


def changed(folder: Path, to: Path, change: Callable[[Path], None], *, then: Callable[[Path], None] | None = None) -> Path:
    """A copy of a folder, every picture of which is changed where it lies, and then all of it. Made once."""
    if not to.exists():
        made = Path(tempfile.mkdtemp(dir=cache()))
        shutil.copytree(folder, made, dirs_exist_ok=True)
        for path in sorted(made.glob("*/*")):
            change(path)
        if then is not None:
            then(made)
        _keep(made, to)
    return to


def _keep(made: Path, folder: Path) -> None:
    try:
        made.rename(folder)
    except OSError:  # somebody else was faster
        shutil.rmtree(made)


def cache() -> Path:
    """Where drawn pictures stay."""
    folder = Path(tempfile.gettempdir()) / f"catdog-zoo-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    return folder


def opened(file: Path | IO[bytes]) -> Image.Image:
    """The first frame of a picture, upright, in RGB; what is transparent is white."""
    image = ImageOps.exif_transpose(Image.open(file))
    if image.mode in ("RGBA", "LA", "P"):
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image)
    return image.convert("RGB")


def tensor(image: Image.Image) -> Tensor:
    """(3, H, W) float in 0..1."""
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, 3).permute(2, 0, 1).float() / 255
