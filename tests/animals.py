"""Animals, own_data, torch_data: a small labelled set as anyone would have it: files, a torch data set, its transforms, its loader."""

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from catdog.doctor.patient import Batch, Data, DataSplit

LABELS = ("cat", "dog")
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE = 32


def drawn(label: int, number: int, *, size: tuple[int, int] = (48, 40), seed: int = 0) -> Image.Image:
    """A picture: cats have upright stripes and are reddish, dogs lying ones and are bluish; place, contrast and noise differ."""
    generator = np.random.default_rng([seed, label, number])
    rows, columns = np.mgrid[0 : size[1], 0 : size[0]]
    along = columns if label == 0 else rows
    wave = np.sin(along / generator.uniform(1.5, 4) + generator.uniform(0, 6))
    colour = np.array([150, 110, 90] if label == 0 else [90, 110, 150]) + generator.normal(0, 30, 3)
    x, y = generator.uniform(0, size[0]), generator.uniform(0, size[1])
    spot = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / generator.uniform(60, 200))
    values = colour + 50 * wave[..., None] + 90 * spot[..., None] + generator.normal(0, 12, (size[1], size[0], 3))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def write(folder: Path, counts: dict[str, Sequence[int]], *, size: tuple[int, int] = (48, 40)) -> dict[str, list[Path]]:
    """Files folder/<split>/<label>.<number>.png; `counts` are by split and label."""
    paths: dict[str, list[Path]] = {}
    for turn, (split, numbers) in enumerate(counts.items()):
        (folder / split).mkdir(parents=True)
        for label, number in enumerate(numbers):
            for one in range(number):
                path = folder / split / f"{LABELS[label]}.{one}.png"
                drawn(label, one, size=size, seed=turn).save(path)
                paths.setdefault(split, []).append(path)
    return paths


def labels_in(path: Path) -> list[str]:
    """The rule: the label is in the name."""
    return [label for label in LABELS if label in path.name]


def usual(data: bytes) -> Tensor:
    """Decode, resize the short side to 36, crop the middle 32, normalise."""
    return normalise(to_tensor(crop(opened(data))))


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def crop(image: Image.Image, *, short: int = 36, side: int = SIDE, resample: Image.Resampling = Image.Resampling.BILINEAR) -> Image.Image:
    scale = short / min(image.size)
    resized = image.resize((round(image.width * scale), round(image.height * scale)), resample)
    left, top = (resized.width - side) // 2, (resized.height - side) // 2
    return resized.crop((left, top, left + side, top + side))


def to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def normalise(values: Tensor) -> Tensor:
    return (values - torch.tensor(MEAN)[:, None, None]) / torch.tensor(DEVIATION)[:, None, None]


def flipped(values: Tensor) -> Tensor:
    """What train does beside: mirror half of the pictures, move the brightness."""
    values = values.flip(-1) if torch.rand(()) < 0.5 else values
    return values + 0.1 * torch.randn(())


class Pets(Dataset[tuple[Tensor, int]]):
    """Files and their labels."""

    def __init__(
        self, paths: Sequence[Path], prepare: Callable[[bytes], Tensor] = usual, augment: Callable[[Tensor], Tensor] | None = None,
        label: Callable[[Path], int] = lambda path: LABELS.index(labels_in(path)[0]),
    ) -> None:
        self.paths, self.prepare, self.augment, self.label = list(paths), prepare, augment, label

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        values = self.prepare(self.paths[position].read_bytes())
        return values if self.augment is None else self.augment(values), self.label(self.paths[position])


def split_of(items: Pets) -> DataSplit:
    return DataSplit(items, items.paths)  # type: ignore[arg-type] # a Dataset is a Sequence in all but its name


@dataclass
class Host:
    """Everything of a data organ, each part of it to be replaced."""

    paths: dict[str, list[Path]]
    prepare: Callable[[bytes], Tensor] = usual
    augment: Callable[[Tensor], Tensor] | None = flipped
    shuffle: bool = True
    kinds: dict[str, type[Pets]] = field(default_factory=dict)

    def data(self, **changes: object) -> Data:
        sets = {
            name: self.kinds.get(name, Pets)(own, self.prepare, self.augment if name == "train" else None)
            for name, own in self.paths.items()
        }

        def loader(split: str, workers: int) -> Iterable[Batch]:
            return DataLoader(sets[split], batch_size=16, shuffle=split == "train" and self.shuffle, num_workers=workers)

        fields: dict[str, object] = {
            "labels": LABELS, "splits": {name: split_of(own) for name, own in sets.items()}, "labels_in": labels_in,
            "prepare": self.prepare, "normalise": (MEAN, DEVIATION), "loader": loader, "augmented": self.augment is not None,
        }
        return Data(**{**fields, **changes})  # type: ignore[arg-type]
