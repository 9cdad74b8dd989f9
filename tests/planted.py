"""Planted, plant: a folder of photographs with faults in it, and the names of the files that have each."""

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import ExifTags, Image

from tests.pictures import lay_out


@dataclass
class Planted:
    """Where the faults are: names below the folder."""

    ambiguous: list[str] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    """Copies in train of what is in val or test."""
    broken: list[str] = field(default_factory=list)
    cmyk: list[str] = field(default_factory=list)
    turned: list[str] = field(default_factory=list)
    healthy: list[str] = field(default_factory=list)


def plant(photographs: Path, folder: Path) -> Planted:
    """40 faults among 250 photographs, 225 cats and 25 dogs: 20 ambiguous names, 12 duplicates across splits, 4 broken files,
    2 in CMYK and 2 that are stored turned."""
    planted = Planted()
    files: dict[str, bytes] = {}
    cats, dogs, spare = (sorted(photographs.glob(names)) for names in ("train/cat.*", "train/dog.*", "val/cat.*"))
    for paths, last_train, last_val in ((cats[:225], 175, 200), (dogs[:25], 15, 20)):
        for turn, path in enumerate(paths):
            split = "train" if turn < last_train else "val" if turn < last_val else "test"
            files[f"{split}/{path.name}"] = path.read_bytes()
    planted.healthy += files
    names = iter(spare)

    def put(kind: list[str], name: str, data: bytes) -> None:
        files[name] = data
        kind.append(name)

    for turn in range(20):
        put(planted.ambiguous, f"train/{'dog_vs_cat' if turn % 2 else 'cat-and-dog'}.{turn}.jpg", next(names).read_bytes())
    for turn, original in enumerate(cats[200:212]):
        put(planted.duplicates, f"train/cat.9{turn:04}.jpg", COPIES[turn % len(COPIES)](original))
    for turn in range(4):
        data = next(names).read_bytes()
        put(planted.broken, f"train/cat.8{turn:04}.jpg", (data[: len(data) // 2], b"", b"<html>", data[:200] + bytes(2000))[turn])
    for turn in range(2):
        put(planted.cmyk, f"train/cat.7{turn:04}.jpg", saved(Image.open(next(names)).convert("CMYK")))
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = (6, 3)[turn]
        stored = Image.open(next(names)).transpose((Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180)[turn])
        put(planted.turned, f"train/cat.6{turn:04}.jpg", saved(stored, exif=exif))
    lay_out(folder, files)
    return planted


def saved(image: Image.Image, **options: object) -> bytes:
    """As JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def _small(path: Path) -> bytes:
    image = Image.open(path)
    return saved(image.resize((image.width // 2, image.height // 2)))


COPIES: tuple[Callable[[Path], bytes], ...] = (
    Path.read_bytes, lambda path: saved(Image.open(path), quality=50), _small,
    lambda path: saved(Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
)
