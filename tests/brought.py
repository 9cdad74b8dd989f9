"""bring: a package for tests that brings networks along, as an installed one would."""

from pathlib import Path

SOURCE = '''
import torch
from torch import nn


class Block(nn.Sequential):
    def __init__(self, before, after):
        super().__init__(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU())


class Whole(nn.Module):
    """Two branches; both are used."""

    def __init__(self, labels, image_size):
        super().__init__()
        self.entry, self.down, self.up = Block(3, 4), Block(4, 8), Block(8, 4)
        self.last = nn.Linear(4, labels)

    def forward(self, images):
        x1 = self.entry(images)
        x1_up = self.up(self.down(x1))
        return self.last(x1_up.mean((2, 3)))


class Wired(Whole):
    """The seed's bug: everything behind the entry is computed and thrown away."""

    def forward(self, images):
        x1 = self.entry(images)
        x1_up = self.up(self.down(x1))
        return self.last(x1.mean((2, 3)))


class Features(Whole):
    def forward(self, images):
        return self.up(self.down(self.entry(images))).mean((2, 3))


class Pair(Whole):
    def forward(self, images):
        return super().forward(images), images


class Fixed(Whole):
    def forward(self, images):
        return super().forward(images.view(-1, 3, 32, 32))


def broken(labels, image_size):
    raise RuntimeError("no such luck")


def none(labels, image_size):
    return "a network"
'''
NAMES = {name: f"brought_networks:{name}" for name in ("Whole", "Wired", "Features", "Pair", "Fixed", "broken", "none")}
NAMES |= {"missing": "no_such_module:Network", "resnet18": "brought_networks:Whole"}


def bring(folder: Path) -> Path:
    """Write it into a folder, which is to be put on Python's path."""
    (folder / "brought_networks.py").write_text(SOURCE)
    info = folder / "brought_networks-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brought-networks\nVersion: 1.0\n")
    lines = [f"{name.lower()} = {value}" for name, value in NAMES.items()]
    (info / "entry_points.txt").write_text("\n".join(["[catdog.models]", *lines, ""]))
    return folder
