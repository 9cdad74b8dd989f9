"""Kit, Pictures: everything from a folder of pictures to answers to users, as a small project of one's own has it.

    FOLDER/{train,val,test}/cat.0001.png --opened, resized--> (3, S, S) normalised --network--> logits (N, 2)
"""

import copy
import io
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor, nn
from torch.optim import AdamW
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler

from catdog.doctor import Data, DataSplit, Patient, Serving, Training
from catdog.doctor.patient import PROBE, Batch, usual_step
from tests.mutations.zoo import pictures
from tests.mutations.zoo.healthy import Small, evaluate, patient

HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
Statistics = tuple[Sequence[float], Sequence[float]]


class Pictures(Dataset[tuple[Tensor, int]]):
    """One split. Augmented is a picture turned over in half of the looks, and moved by up to two pixels."""

    def __init__(self, paths: Sequence[Path], prepare: Callable[[Path], Tensor], *, augmented: bool) -> None:
        self.paths, self.prepare, self.augmented = paths, prepare, augmented
        self.targets = [pictures.LABELS.index(label_in(path)) for path in paths]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        image = self.prepare(self.paths[number])
        if self.augmented:
            across, down, turned = torch.randint(-2, 3, ()), torch.randint(-2, 3, ()), torch.rand(()) < 0.5
            image = image.roll((int(across), int(down)), (1, 2))
            image = image.flip(2) if turned else image
        return image, self.targets[number]


def label_in(path: Path) -> str:
    """Of cat.0001.png, or of cat/0001.png."""
    return next(label for label in pictures.LABELS if label in (path.name.partition(".")[0], path.parent.name))


def resized(image: Image.Image, side: int) -> Image.Image:
    return image.resize((side, side), Image.Resampling.BILINEAR)


def letterboxed(image: Image.Image, side: int) -> Image.Image:
    """The whole picture in the middle of a grey square."""
    image.thumbnail((side, side), Image.Resampling.BILINEAR)
    square = Image.new("RGB", (side, side), (128, 128, 128))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


@dataclass
class Kit:
    """A project. What is not said is usual."""

    folder: Path
    side: int = 32
    normalise: Statistics = HALF
    fit_square: Callable[[Image.Image, int], Image.Image] = resized
    augmented: bool = True
    batch_size: int = 16
    drop_last: bool = False
    balance: str = "natural"
    epochs: int = 3
    grey: bool = False
    pixels: bool = False
    """Pictures are (S, S, 3) uint8 as they are."""
    by_folder: bool = False
    """Labels are folders, and splits are drawn from all of them."""

    def prepare(self, file: Path | io.BytesIO) -> Tensor:
        """What val, test and serving see of a picture."""
        image = pictures.opened(file)
        image = image.convert("L").convert("RGB") if self.grey else image
        if self.pixels:
            return torch.tensor(bytearray(self.fit_square(image, self.side).tobytes())).view(self.side, self.side, 3)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in self.normalise)
        return (pictures.tensor(self.fit_square(image, self.side)) - mean) / std

    @cached_property
    def splits(self) -> Mapping[str, Pictures]:
        paths = {split: sorted((self.folder / split).glob("*")) for split in ("train", "val", "test")}
        if self.by_folder:
            every = sorted(self.folder.glob("*/*"))
            order = torch.randperm(len(every), generator=torch.Generator().manual_seed(0)).tolist()
            paths = {split: [every[number] for number in order[start::3]] for start, split in enumerate(paths)}
        return {split: Pictures(of, self.prepare, augmented=self.augmented and split == "train") for split, of in paths.items()}

    def loader(self, split: str, workers: int = 0) -> Iterable[Batch]:
        """An epoch, as the loop below goes through it."""
        items = self.splits[split]
        if split != "train":
            return DataLoader(items, batch_size=32, num_workers=workers)
        if self.balance == "sampler":
            counts = [items.targets.count(label) for label in range(2)]
            sampler = WeightedRandomSampler([1 / counts[target] for target in items.targets], len(items))
            return DataLoader(items, batch_size=self.batch_size, sampler=sampler, num_workers=workers)
        return DataLoader(items, batch_size=self.batch_size, shuffle=True, drop_last=self.drop_last, num_workers=workers)

    @property
    def data(self) -> Data:
        def labels_in(path: Path) -> Sequence[str]:
            parts = (*Path(path).name.split("."), *([Path(path).parent.name] if self.by_folder else []))
            return [label for label in pictures.LABELS if label in parts]

        order = "weighted" if self.balance == "sampler" else "shuffled"
        splits = {split: DataSplit(cast(Any, items), items.paths) for split, items in self.splits.items()}
        return Data(
            pictures.LABELS, splits, labels_in, prepare=lambda content: self.prepare(io.BytesIO(content)),
            normalise=None if self.pixels else self.normalise, loader=self.loader,
            augmented=self.augmented, order=order, balance=self.balance,
            population=[pictures.LABELS[target] for items in self.splits.values() for target in items.targets],
        )

    def training(self, model: nn.Module, loss: nn.Module) -> Training:
        """Of a network like this one, which stays as it is."""
        file = Path(tempfile.mkdtemp(prefix="zoo-"), "best.pt")

        def fit() -> Sequence[Mapping[str, float]]:
            network = copy.deepcopy(model).train()
            optimizer, records = AdamW(network.parameters(), lr=2e-3), []
            for _ in range(self.epochs):
                for batch in self.loader("train"):
                    usual_step(network, batch, loss, optimizer)
                scores = evaluate(network, self.loader("val"), loss)
                records.append({"val_loss": scores["loss"], "val_accuracy": scores["accuracy"]})
                if scores["loss"] == min(record["val_loss"] for record in records):
                    torch.save(network.state_dict(), file)
            return records

        def best() -> nn.Module:
            network = copy.deepcopy(model)
            network.load_state_dict(torch.load(file, weights_only=True))
            return network.eval()

        return Training(fit, best)

    def serving(self, model: nn.Module) -> Serving:
        """Of the network as it is now."""
        served = copy.deepcopy(model).eval()

        def prepare(content: bytes) -> Tensor:
            return self.prepare(io.BytesIO(content))

        @torch.no_grad()
        def logits(inputs: Tensor) -> Tensor:
            answers: Tensor = served(inputs)
            return answers

        def probabilities(contents: Sequence[bytes]) -> Tensor:
            return logits(torch.stack(list(map(prepare, contents)))).softmax(1)

        return Serving(prepare, probabilities, pictures.LABELS, logits=logits)

    def batch(self) -> Batch:
        """Of val, of both labels."""
        items = self.splits["val"]
        of = [[number for number, target in enumerate(items.targets) if target == label][: PROBE // 2] for label in range(2)]
        drawn = [items[number] for numbers in zip(*of, strict=False) for number in numbers]
        return torch.stack([image for image, _ in drawn]), torch.tensor([target for _, target in drawn])

    def patient(self, **more: Any) -> Patient:
        """A small network for it, with every organ."""
        model: nn.Module = more.pop("model", None) or Small(dropout=0.1)
        loss = more.pop("loss", None) or nn.CrossEntropyLoss()
        return patient(
            model, more.pop("batch", None) or self.batch(), loss, data=self.data, training=self.training(model, loss),
            serving=self.serving(model), **more,
        )
