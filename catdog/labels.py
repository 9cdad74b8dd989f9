"""label_of_filename, plan, Planned, left_out, natural, listed: what the files' names alone say about a data set.

Nothing is opened here, so an upload can be refused from the directory of its zip, before a picture is read.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from catdog import splits
from catdog.errors import BadDataset

Rule = Literal["auto", "filename", "folder"]

DEFAULT_LABELS = ("cat", "dog")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
MAX_LABELS = 1000
MAX_WORDS = 50
"""Labels that are looked for in file names: each name is searched for each of them, in the service, while the uploader waits."""
MAX_LABEL_LENGTH = 64
_SPLIT_OF_FOLDER = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_LEFT_BY_SYSTEMS = {"__macosx", "thumbs.db", "desktop.ini"}


@dataclass(frozen=True, slots=True)
class Planned:
    """A picture to import: its name as the user called it, its label, and its split where the folders say so."""

    name: str
    label: str
    split: str | None


@dataclass(frozen=True, slots=True)
class _Place:
    name: str
    split: str | None
    folder: str | None
    """The label folder: the first folder below the root and the split."""


def natural(text: str) -> tuple[list[tuple[int, str]], str]:
    """A sort key by which cat.2.jpg comes before cat.10.jpg."""
    parts = re.split(r"([0-9]+)", text.casefold())
    return [(int(part), "") if part.isdigit() and part.isascii() else (-1, part) for part in parts], text


def listed(names: Sequence[str], *, most: int = 5) -> str:
    """The first few of many names, for a message."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def label_of_filename(name: str, labels: Sequence[str]) -> str:
    """The one label that stands as a word in the base name: `cat.12.jpg` and `my_cat.png` are cats, `catalog_dog.jpg` is a dog.

    Raises:
        BadDataset: none of the labels stands in it (`catdog.jpg`), or more than one (`dog_vs_cat.jpg`).
    """
    found = _labels_in(name, labels)
    if len(found) == 1:
        return found[0]
    raise BadDataset(
        f"Expected one of the words {', '.join(labels)} in the file's name. Received: {name} ({', '.join(found) or 'none of them'}).",
        offenders=[name], remedy="Rename the file, or put the pictures into one folder per label.",
    )


def _labels_in(name: str, labels: Sequence[str]) -> list[str]:
    base = unicodedata.normalize("NFC", name.rpartition("/")[2])
    return [label for label, word in _words(tuple(labels)) if word.search(base)]


@lru_cache(maxsize=8)
def _words(labels: tuple[str, ...]) -> list[tuple[str, re.Pattern[str]]]:
    """A word ends where the letters end: digits, dots, dashes and underscores part words, which \\b would not do."""
    normal = [(label, re.escape(unicodedata.normalize("NFC", label))) for label in labels]
    return [(label, re.compile(rf"(?<![^\W\d_]){word}(?![^\W\d_])", re.IGNORECASE)) for label, word in normal]


def left_out(names: Iterable[str]) -> list[dict[str, str]]:
    """The files that are no pictures by their extension, each with the reason. Hidden files and systems' litter are not worth a word."""
    reason = f"not a picture ({', '.join(SUFFIXES)})"
    return [{"name": name, "reason": reason} for name in names if _is_file(name) and not _is_picture(name)]


def plan(names: Iterable[str], labels: Sequence[str] | None = None, rule: Rule = "auto") -> list[Planned]:
    """Decide label and split of every picture from names alone (`/` parts folders; a name that ends in `/` is a folder).

    One root folder around everything is looked through. Folders train, val (valid, validation) and test are splits. The rule
    `folder` takes the folder below them as the label, `filename` looks for a label as a word in the base name, and `auto` takes
    folders where pictures lie in at least two label folders.
    Without `labels` the file names are searched for cat and dog, and any folder is a label.

    Raises:
        BadDataset: no pictures, labels that cannot be told, fewer than two labels, or too few pictures of one.
    """
    wanted = None if labels is None else checked(labels)
    files = [name for name in names if _is_file(name)]
    places = _places(sorted((name for name in files if _is_picture(name)), key=natural))
    if not places:
        received = f"none among {len(files)} files" if files else "no files"
        raise BadDataset(f"Expected pictures ({', '.join(SUFFIXES)}). Received: {received}.", offenders=files)
    _check_splits(places)
    folders = _label_folders(places, wanted)
    if rule == "folder" or (rule == "auto" and len(set(folders.values())) >= 2):
        planned = _by_folder(places, folders, wanted)
    else:
        planned = _by_filename(places, wanted or DEFAULT_LABELS)
    _check_labels(planned, wanted)
    # The real split waits for the contents; were all of them different, this is how it would go.
    splits.assign([(picture.name, picture.label, picture.split) for picture in planned], seed=0)
    return planned


def checked(labels: Sequence[str]) -> list[str]:
    """The labels as they were given, if they can be labels."""
    same = {_key(label) for label in labels}
    if not 2 <= len(labels) <= MAX_LABELS or len(same) < len(labels):
        raise BadDataset(f"Expected 2 to {MAX_LABELS} different labels. Received: {len(labels)} ({listed(labels)}).")
    bad = [ascii(label) for label in labels if not _can_be_label(label)]
    if bad:
        raise BadDataset(f"Expected labels of 1 to {MAX_LABEL_LENGTH} visible characters. Received: {listed(bad)}.")
    return list(labels)


def _can_be_label(text: str) -> bool:
    return 1 <= len(text) <= MAX_LABEL_LENGTH and text == text.strip() and text.isprintable() and "/" not in text


def _key(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()


def _is_file(name: str) -> bool:
    parts = name.split("/")
    hidden = any(part.startswith(".") or part.casefold() in _LEFT_BY_SYSTEMS for part in parts if part)
    return not hidden and bool(parts[-1])


def _is_picture(name: str) -> bool:
    return name.casefold().endswith(SUFFIXES)


def _places(names: Sequence[str]) -> list[_Place]:
    folders = [name.split("/")[:-1] for name in names]
    first = {parts[0] if parts else "" for parts in folders}
    # One folder around everything says nothing, unless it is a split or itself the only label folder.
    wrapped = len(first) == 1 and any(len(parts) > 1 for parts in folders) and _key(*first) not in _SPLIT_OF_FOLDER
    places = []
    for name, parts in zip(names, folders, strict=True):
        inner = parts[1:] if wrapped else parts
        split = _SPLIT_OF_FOLDER.get(_key(inner[0])) if inner else None
        below = inner[1:] if split else inner
        places.append(_Place(name, split, below[0] if below else None))
    return places


def _check_splits(places: Sequence[_Place]) -> None:
    """Split folders hold all pictures, or there are none."""
    outside = [place.name for place in places if place.split is None]
    if outside and len(outside) < len(places):
        raise BadDataset(
            f"Expected every picture inside a split folder, because there are some. Received: {len(outside)} outside ({listed(outside)}).",
            offenders=outside, remedy="Move them into train, val or test.",
        )


def _label_folders(places: Sequence[_Place], wanted: Sequence[str] | None) -> dict[str, str]:
    """Which label each folder stands for, by its key: those that were asked for, else every folder (`Cat` and `cat` are one label)."""
    if wanted is not None:
        asked = {_key(label): label for label in wanted}
        return {_key(place.folder): asked[_key(place.folder)] for place in places if place.folder and _key(place.folder) in asked}
    found: dict[str, str] = {}
    for folder in sorted({place.folder for place in places if place.folder}, key=natural):
        found.setdefault(_key(folder), folder)
    return found


def _by_folder(places: Sequence[_Place], folders: dict[str, str], wanted: Sequence[str] | None) -> list[Planned]:
    outside = [place.name for place in places if place.folder is None or _key(place.folder) not in folders]
    if outside:
        expected = f"one of the folders {listed(wanted)}" if wanted else "a folder with its label's name"
        raise BadDataset(
            f"Expected every picture in {expected}. Received: {len(outside)} elsewhere ({listed(outside)}).",
            offenders=outside, remedy="Move or remove these files, or send other labels.",
        )
    bad = sorted({folder for folder in folders.values() if not _can_be_label(folder)})
    if bad or len(folders) > MAX_LABELS:
        raise BadDataset(
            f"Expected at most {MAX_LABELS} label folders with names of 1 to {MAX_LABEL_LENGTH} visible characters. "
            f"Received: {len(folders)} ({listed([ascii(folder) for folder in bad or sorted(folders.values())])}).", offenders=bad,
        )
    return [Planned(place.name, folders[_key(place.folder or "")], place.split) for place in places]


def _by_filename(places: Sequence[_Place], labels: Sequence[str]) -> list[Planned]:
    if len(labels) > MAX_WORDS:
        raise BadDataset(
            f"Expected at most {MAX_WORDS} labels in file names. Received: {len(labels)}.",
            remedy="Put the pictures into one folder per label.",
        )
    planned: list[Planned] = []
    ambiguous: list[str] = []
    unlabelled: list[str] = []
    for place in places:
        found = _labels_in(place.name, labels)
        if len(found) == 1:
            planned.append(Planned(place.name, found[0], place.split))
        else:
            (ambiguous if found else unlabelled).append(place.name)
    if ambiguous or unlabelled:
        kinds = (("ambiguous", ambiguous), ("unlabelled", unlabelled))
        parts = [f"{len(names)} {kind} ({listed(names)})" for kind, names in kinds if names]
        # Half of the list for each kind, so that many of one do not hide the other.
        offenders = [*ambiguous[:10], *unlabelled[:10], *ambiguous[10:], *unlabelled[10:]]
        raise BadDataset(
            f"Expected exactly one of the words {', '.join(labels)} in every picture's file name. Received: {', '.join(parts)}.",
            offenders=offenders,
            remedy="Rename these files (cat.12.jpg), put the pictures into one folder per label, or send other labels.",
        )
    return planned


def _check_labels(planned: Sequence[Planned], wanted: Sequence[str] | None) -> None:
    found = sorted({picture.label for picture in planned}, key=natural)
    absent = [label for label in wanted or () if label not in found]
    if len(found) < 2:
        raise BadDataset(f"Expected pictures of at least two labels. Received: {len(planned)} pictures, all of {found[0]}.")
    if absent:
        raise BadDataset(f"Expected pictures of every label. Received: none of {listed(absent)}.")
    if len(found) > MAX_LABELS:
        raise BadDataset(f"Expected at most {MAX_LABELS} labels. Received: {len(found)}.")
