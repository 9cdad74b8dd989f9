"""draw, VARIANTS: cats and dogs made by code, learnable within three epochs, in the odd forms that users' pictures come in.

A cat is striped and has pointed ears, a dog is spotted and has round ones; both in any colour, size and place, on any background. The
form of a file (JPEG or PNG, grey, with alpha, turned by EXIF) has nothing to do with its label.

    FOLDER/{train,val,test}/0123-cat.jpg
"""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

LABELS = ("cat", "dog")
COUNTS = {"train": 400, "val": 120, "test": 120}
_UPRIGHT, _ON_ITS_SIDE, _ORIENTATION = 1, 6, 0x0112
"""EXIF 2.32, 4.6.4"""

Generator = np.random.Generator
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Variant:
    """A kind of data set."""

    sides: tuple[int, ...]
    """Pixels of the short side, drawn with equal chance; one in twenty is large beside them."""
    wrong: float = 0.0
    """Share of the training pictures that bear the other's label."""


VARIANTS = {
    "mixed": Variant(sides=(64, 72, 80)),
    "photos": Variant(sides=(400,)),
    "elsewhere": Variant(sides=(64, 72, 80)),
    "mislabelled": Variant(sides=(64, 72, 80), wrong=0.35),
}


def draw(variant: str, cache: Path) -> Path:
    """The folder of a variant: drawn at the first call, as it is at every other one."""
    folder = cache / f"pictures-{variant}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=cache))
        rng = np.random.default_rng(sorted(VARIANTS).index(variant))
        for split, count in COUNTS.items():
            (made / split).mkdir()
            labels = rng.permutation(np.arange(count) % len(LABELS))
            for number, label in enumerate(labels):
                _write(made / split / f"{number:04d}", int(label), VARIANTS[variant], rng, training=split == "train")
        try:
            made.rename(folder)
        except OSError:  # somebody else was faster
            shutil.rmtree(made)
    return folder


def _write(stem: Path, label: int, variant: Variant, rng: Generator, *, training: bool) -> None:
    side = 600 if rng.random() < 0.05 else int(rng.choice(variant.sides))
    image = _picture(label, side, side + int(rng.integers(0, side // 4)), rng)
    if training and rng.random() < variant.wrong:
        label = 1 - label
    name, form, exif = f"{stem}-{LABELS[label]}", rng.random(), Image.Exif()
    if form < 0.05:
        image.convert("L").save(f"{name}.jpg", quality=92)
    elif form < 0.10:
        image.putalpha(Image.linear_gradient("L").resize(image.size))
        image.save(f"{name}.png")
    elif form < 0.16:
        exif[_ORIENTATION] = _ON_ITS_SIDE
        image.transpose(Image.Transpose.ROTATE_90).save(f"{name}.jpg", quality=92, exif=exif)
    else:
        image.save(f"{name}.jpg", quality=92)


def _picture(label: int, height: int, width: int, rng: Generator) -> Image.Image:
    """Drawn at 96 pixels and enlarged where it is to be large: a photograph's details grow with it."""
    scale = min(height, width) / 96
    small = (round(height / scale), round(width / scale))
    rows, columns = np.mgrid[0 : small[0], 0 : small[1]].astype(float)
    body = _mask(label, small, rng)
    texture = _stripes(rows, columns, rng) if label == 0 else _spots(small, rng)
    coat, other = rng.uniform(60, 255, 3), rng.uniform(0, 120, 3)
    coat[0 if label == 0 else 2] += 60  # cats are a little redder, dogs a little bluer
    ground = _background(rows, columns, rng)
    animal = texture[..., None] * coat + (1 - texture[..., None]) * other
    pixels = body[..., None] * animal + (1 - body[..., None]) * ground + rng.normal(0, 6, (*small, 3))
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8), "RGB")
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _background(rows: Floats, columns: Floats, rng: Generator) -> Floats:
    corner, slope = rng.uniform(0, 255, 3), rng.uniform(-1.5, 1.5, (2, 3))
    waves = 25 * np.sin(rows / rng.uniform(9, 30) + rng.uniform(0, 6)) * np.sin(columns / rng.uniform(9, 30) + rng.uniform(0, 6))
    ground: Floats = corner + rows[..., None] * slope[0] + columns[..., None] * slope[1] + waves[..., None]
    return ground


def _stripes(rows: Floats, columns: Floats, rng: Generator) -> Floats:
    angle, period = rng.uniform(0, np.pi), rng.uniform(6, 10)
    stripes: Floats = 0.5 + 0.5 * np.sign(np.sin((rows * np.sin(angle) + columns * np.cos(angle)) * 2 * np.pi / period))
    return stripes


def _spots(shape: tuple[int, int], rng: Generator) -> Floats:
    image = Image.new("L", shape[::-1], 255)
    pencil = ImageDraw.Draw(image)
    for _ in range(45):
        y, x, radius = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(2, 5)
        pencil.ellipse((x - radius, y - radius, x + radius, y + radius), fill=0)
    return np.asarray(image) / 255.0


def _mask(label: int, shape: tuple[int, int], rng: Generator) -> Floats:
    """A head with two ears."""
    image = Image.new("L", shape[::-1], 0)
    pencil = ImageDraw.Draw(image)
    radius = rng.uniform(0.26, 0.36) * min(shape)
    y, x = rng.uniform(0.45, 0.6) * shape[0], rng.uniform(0.4, 0.6) * shape[1]
    pencil.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    for side in (-1, 1):
        ear = x + side * 0.75 * radius
        if label == 0:
            foot, tip = y - 0.5 * radius, (ear, y - 1.7 * radius)
            pencil.polygon([(ear - 0.5 * radius, foot), (ear + 0.5 * radius, foot), tip], fill=255)
        else:
            pencil.ellipse((ear - 0.4 * radius, y - 0.9 * radius, ear + 0.4 * radius, y + 0.9 * radius), fill=255)
    return np.asarray(image) / 255.0


def cache_folder() -> Path:
    """Where what is made once is kept."""
    return Path(os.environ.get("CATDOG_MUTATIONS", Path(tempfile.gettempdir()) / f"catdog-mutations-{os.getuid()}"))
