"""Entry, Look, census, look: what is known of the files of a data organ, each looked at once.

    Data.splits --entries--> Entry: split, position, path, label --look--> Look: what the file is, or why it cannot be read
"""

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, ImageOps

from catdog import duplicates, images
from catdog.doctor.patient import Data, Patient
from catdog.errors import BadImage, TooLarge, UnsupportedType

MOST = 2_000
"""Files that are looked at; of more, so many spread evenly over each split."""
GLANCE = 64
"""Pixels a side of what the colours and textures of a file are judged by."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One item of a split and its file."""

    split: str
    position: int
    path: Path
    labels: tuple[str, ...]
    """Everything that the declared rule reads out of the path. Exactly one is as it should be."""

    @property
    def label(self) -> str | None:
        """The one label, if it is one."""
        return self.labels[0] if len(self.labels) == 1 else None


@dataclass(frozen=True, slots=True)
class Look:
    """What a file is."""

    error: str = ""
    """Why it cannot be read; nothing else is known then."""
    pixels: str = ""
    """A hash of the upright RGB pixels."""
    size: tuple[int, int] = (0, 0)
    """Width and height, upright."""
    bytes: int = 0
    format: str = ""
    mode: str = ""
    frames: int = 1
    orientation: int = 1
    modified: int = 0
    """Unix seconds."""
    thumbnail: NDArray[np.uint8] | None = None
    """As duplicates.thumbnail makes it."""
    opaque: NDArray[np.uint8] | None = None
    """The same without its transparency, where it has one."""
    glance: NDArray[np.uint8] | None = None
    """(GLANCE, GLANCE, 3)"""


def entries(patient: Patient) -> list[Entry]:
    """All items of all splits."""
    data = _data(patient)
    if "entries" not in patient.known:
        patient.known["entries"] = [
            Entry(name, position, path, tuple(data.labels_in(path)))
            for name, split in data.splits.items() for position, path in enumerate(split.paths)
        ]
    found: list[Entry] = patient.known["entries"]
    return found


def sampled(found: Sequence[Entry], most: int = MOST) -> list[Entry]:
    """At most `most` of them, of each split as large a share as of the others, evenly spread."""
    if len(found) <= most:
        return list(found)
    by_split: dict[str, list[Entry]] = {}
    for entry in found:
        by_split.setdefault(entry.split, []).append(entry)
    share = most / len(found)
    return [own[place] for own in by_split.values() for place in spread(len(own), max(1, round(share * len(own))))]


def spread(number: int, most: int) -> list[int]:
    """At most `most` of the positions below `number`, the first and the last among them, evenly spread."""
    return sorted({round(place) for place in np.linspace(0, number - 1, min(number, most))}) if number else []


def census(found: Sequence[Entry]) -> list[Look]:
    """Look at their files, on every core."""
    with _strictly(), ThreadPoolExecutor(len(os.sched_getaffinity(0)), "census") as pool:
        return list(pool.map(look, [entry.path for entry in found]))


def look(path: Path) -> Look:
    """Look at a file; the second time nothing is read."""
    try:
        state = path.stat()
    except OSError as error:
        return Look(error=f"{type(error).__name__}: {error.strerror}")
    return _look(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4 * MOST)
def _look(path: Path, modified: int, size: int) -> Look:
    data = path.read_bytes()
    try:
        picture = images.read(data)
    except (UnsupportedType, TooLarge, BadImage):
        try:
            picture = _otherwise(data)  # what catdog does not take is not broken
        except Exception as error:  # noqa: BLE001 - Pillow raises a dozen kinds on broken bytes
            return Look(error=f"{type(error).__name__}: {error}"[:200], bytes=size)
    image, under = picture.image, opaque(data)
    return Look(
        pixels=hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16, key=f"{image.size}".encode()).hexdigest(),
        size=image.size, bytes=size, format=picture.format, mode=picture.mode, frames=_frames(data), orientation=picture.orientation,
        modified=modified // 1_000_000_000, thumbnail=duplicates.thumbnail(image),
        opaque=None if under is None else duplicates.thumbnail(under), glance=_glance(image),
    )


def opaque(data: bytes) -> Image.Image | None:
    """A picture without its transparency, as `convert("RGB")` makes it in many a script that saves copies; None where it has none."""
    try:
        image = Image.open(io.BytesIO(data))
        if not image.has_transparency_data or image.mode.startswith(("I", "F")):
            return None
        whole = ImageOps.exif_transpose(image).convert("RGBA")
        return whole.convert("RGB") if whole.getchannel("A").getextrema() != (255, 255) else None
    except Exception:  # noqa: BLE001 - Pillow raises a dozen kinds; whether the picture can be read is said elsewhere
        return None


def _otherwise(data: bytes) -> images.Picture:
    image = Image.open(io.BytesIO(data))
    image.load()
    upright = ImageOps.exif_transpose(image)
    return images.Picture(upright.convert("RGB"), str(image.format), image.mode, image.getexif().get(ExifTags.Base.Orientation, 1))


def _frames(data: bytes) -> int:
    return int(getattr(Image.open(io.BytesIO(data)), "n_frames", 1))


def _glance(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(image.resize((GLANCE, GLANCE), Image.Resampling.BILINEAR, reducing_gap=2.0))


@lru_cache(maxsize=MOST)
def glance(path: Path) -> NDArray[np.uint8] | None:
    """The colours and textures of a file (GLANCE, GLANCE, 3), of a JPEG by an eighth of the work; None where it cannot be read."""
    try:
        with Image.open(path) as image:
            image.draft("RGB", (2 * GLANCE, 2 * GLANCE))
            return _glance(image.convert("RGB"))
    except Exception:  # noqa: BLE001 - D01 says which files and why
        return None


def _data(patient: Patient) -> Data:
    if patient.data is None:
        raise ValueError("Expected a patient with data; an examination says so by needs=('data',).")
    return patient.data


@contextmanager
def _strictly() -> Iterator[None]:
    """A truncated file is no picture here, whatever the owner tells Pillow."""
    with patch.object(ImageFile, "LOAD_TRUNCATED_IMAGES", False):
        yield
