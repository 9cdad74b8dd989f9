"""places, Place, check_splits, split_named, SUFFIXES: where each picture lies: in which split's folder, and in which label's.

One folder around everything, or several one in the other, say nothing and are looked through.
"""

import os.path
from collections.abc import Sequence
from dataclasses import dataclass

from catdog.errors import BadDataset
from catdog.labels import key, listed

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp")
_SPLITS = {
    "train": ("train", "training", "training_set", "train_set"),
    "val": ("val", "valid", "validation", "validation_set", "val_set", "dev"),
    "test": ("test", "testing", "test_set", "eval"),
}
_SPLIT_OF_NAME = {name: split for split, names in _SPLITS.items() for name in names}
_LEFT_BY_SYSTEMS = {"__macosx", "thumbs.db", "desktop.ini"}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a picture lies."""

    name: str
    split: str | None
    folder: str | None
    """The first folder below the root and the split: a label, where folders are labels."""
    is_astray: bool
    """It lies in a folder with the name of a split where none can be: below a label folder, or below another split."""


def split_named(name: str) -> str | None:
    """The split that people mean by a folder of this name: `train` by Training, `val` by validation."""
    return _SPLIT_OF_NAME.get(key(name))


def is_litter(name: str) -> bool:
    """Whether a system left the file there, and nobody put it."""
    return any(part.startswith(".") or part.casefold() in _LEFT_BY_SYSTEMS for part in name.split("/"))


def is_picture(name: str) -> bool:
    """Whether the name is that of a picture which can be read."""
    return name.casefold().endswith(SUFFIXES)


def around(names: Sequence[str]) -> list[str]:
    """The folders that hold all these files, outermost first."""
    common = os.path.commonpath([name.rpartition("/")[0] for name in names])
    return common.split("/") if common else []


def places(names: Sequence[str], labels: Sequence[str] = ()) -> list[Place]:
    """The place of each picture. A folder whose name is one of `labels` is never a split."""
    asked = {key(label) for label in labels}
    common = around(names)
    root = 0
    while root < len(common) and (split_named(common[root]) is None or key(common[root]) in asked):
        root += 1
    folders = [name.split("/")[:-1] for name in names]
    if root and all(len(parts) == root for parts in folders):
        root -= 1  # nothing lies deeper: the innermost is the only label folder
    found = []
    for name, parts in zip(names, folders, strict=True):
        below = parts[root:]
        meant = [None if key(part) in asked else split_named(part) for part in below]
        split = meant[0] if meant else None
        inner = slice(1 if split else 0, None)
        found.append(Place(name, split, next(iter(below[inner]), None), is_astray=any(meant[inner])))
    return found


def check_splits(places: Sequence[Place]) -> None:
    """Split folders hold all pictures, above the label folders, or there are none.

    Raises:
        BadDataset: some pictures lie outside, or below a split folder that is no split.
    """
    stray = [place.name for place in places if place.is_astray]
    if stray:
        raise BadDataset(
            "Expected split folders above the label folders (train/cat/1.jpg). "
            f"Received: {len(stray)} pictures in one elsewhere ({listed(stray)}).",
            offenders=stray, remedy="Put train, val and test outermost, or give these folders names that mean no split.",
        )
    outside = [place.name for place in places if place.split is None]
    if outside and len(outside) < len(places):
        raise BadDataset(
            f"Expected every picture inside a split folder, because there are some. Received: {len(outside)} outside ({listed(outside)}).",
            offenders=outside, remedy="Move them into train, val or test; or, if these are labels, name all labels with labels=.",
        )
