"""Labelling, plan, Plan, Planned, Refused: which pictures an import takes, under which labels, by the files' names alone.

No picture is opened here, so an upload can be refused from the directory of its zip, before a picture is read.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import re2
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from catdog import manifests, splits
from catdog.errors import BadDataset
from catdog.labels import DEFAULT_LABELS, MAX_LABEL_LENGTH, MAX_LABELS, can_be_label, checked, key, labels_in, listed, natural

Rule = Literal["auto", "filename", "folder", "manifest", "pattern"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
MAX_WORDS = 50
"""Labels that are looked for in file names: each name is searched for each of them, in the service, while the uploader waits."""
MAX_PATTERN_LENGTH = 500
_SPLIT_OF_FOLDER = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_LEFT_BY_SYSTEMS = {"__macosx", "thumbs.db", "desktop.ini"}


class Labelling(BaseModel):
    """How pictures get their labels. The same value in the query of an upload, in request.json and on the command line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    labels: tuple[str, ...] | None = Field(
        None, description="The labels, in the order of the network's outputs; by default cat and dog in file names, and any folder.",
    )
    rule: Rule = Field(
        "auto", description="Where labels stand: auto takes a manifest if there is one, else folders if there are two, else file names.",
    )
    pattern: str | None = Field(
        None, max_length=MAX_PATTERN_LENGTH,
        description="Of the rule pattern: a regular expression (RE2) with a group named label, looked for in the whole name.",
    )
    unlabelled: Literal["refuse", "skip"] = Field(
        "refuse", description="What becomes of pictures whose label cannot be told: refuse the data set, or leave them out and list them.",
    )

    @field_validator("labels")
    @classmethod
    def _are_labels(cls, labels: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if labels is None else tuple(checked(labels))

    @model_validator(mode="after")
    def _has_a_pattern(self) -> Self:
        if self.rule == "pattern":
            _compiled(self.pattern)
        return self


@dataclass(frozen=True, slots=True)
class Refused:
    """A file that does not become a picture of the data set."""

    name: str
    kind: Literal["ambiguous", "unlabelled", "not_a_picture", "not_regular", "unreadable", "duplicate", "leak"]
    reason: str


@dataclass(frozen=True, slots=True)
class Planned:
    """A picture to import: its name as the user called it, its label, and its split where the folders say so."""

    name: str
    label: str
    split: str | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What an import will do, by the names."""

    pictures: list[Planned]
    """In natural order of their names."""
    labels: list[str]
    """In the order of the network's outputs."""
    refused: list[Refused]
    ignored: int
    """Hidden files and systems' litter (.DS_Store, __MACOSX, Thumbs.db): not worth a line each."""


@dataclass(frozen=True, slots=True)
class _Place:
    name: str
    split: str | None
    folder: str | None
    """The label folder: the first folder below the root and the split."""


def plan(names: Iterable[str], labelling: Labelling | None = None, read: Callable[[str], bytes] | None = None) -> Plan:
    """Decide label and split of every picture from names alone (`/` parts folders; a name that ends in `/` is a folder).

    One root folder around everything is looked through. Folders train, val (valid, validation) and test are splits. The rules:

        folder     the folder below them is the label
        filename   a label stands as a word in the base name: cat.12.jpg
        pattern    the group `label` of a regular expression
        manifest   manifest.csv or manifest.json at the root says it: path, label and, if it likes, split; `read` gives its bytes
        auto       a manifest if there is one and it can be read; folders if pictures lie in at least two; else file names

    Without `labels` the file names are searched for cat and dog, and any folder, match or word of a manifest is a label.

    Raises:
        BadDataset: no pictures, labels that cannot be told (all of them are named), fewer than two labels, or too few pictures of one.
    """
    labelling = labelling or Labelling()
    names = [name for name in names if not name.endswith("/")]
    files = sorted((name for name in names if not _is_litter(name)), key=natural)
    places = _places([name for name in files if _is_picture(name)])
    manifest = manifests.find(files) if read is not None and labelling.rule in ("auto", "manifest") else None
    refused = [
        Refused(name, "not_a_picture", f"not a picture ({', '.join(SUFFIXES)})")
        for name in files if not _is_picture(name) and name != manifest
    ]
    if not places:
        received = f"none among {len(files)} files" if files else "no files"
        raise BadDataset(f"Expected pictures ({', '.join(SUFFIXES)}). Received: {received}.", offenders=files)
    planned, unlabelled = _labelled(places, labelling, manifest, read)
    if unlabelled and labelling.unlabelled == "refuse":
        raise _unlabelled(unlabelled, labelling)
    found = _check_labels(planned, labelling.labels)
    # The real split waits for the contents; were all of them different, this is how it would go.
    pictures = [(picture.name, picture.label, picture.split) for picture in planned]
    splits.check(pictures, splits.assign(pictures, seed=0))
    return Plan(planned, list(labelling.labels or found), [*refused, *unlabelled], ignored=len(names) - len(files))


def _labelled(
    places: Sequence[_Place], labelling: Labelling, manifest: str | None, read: Callable[[str], bytes] | None,
) -> tuple[list[Planned], list[Refused]]:
    """The pictures with their labels, and those whose label cannot be told."""
    if labelling.rule == "manifest" and manifest is None:
        raise BadDataset(
            f"Expected a manifest beside the pictures: {' or '.join(manifests.NAMES)}. Received: none.",
            remedy="Add one, or take another rule.",
        )
    if manifest is not None and read is not None:
        return _by_manifest(places, manifests.rows(manifest, read(manifest), [place.name for place in places]), labelling.labels)
    _check_splits(places)
    if labelling.rule == "pattern":
        return _by_pattern(places, labelling)
    folders = _label_folders(places, labelling.labels)
    if labelling.rule == "folder" or (labelling.rule == "auto" and len(set(folders.values())) >= 2):
        return _by_folder(places, folders, labelling.labels)
    return _by_filename(places, labelling.labels or DEFAULT_LABELS)


def _unlabelled(unlabelled: Sequence[Refused], labelling: Labelling) -> BadDataset:
    """One refusal that names them all, of each kind the first ones."""
    kinds = {kind: [one for one in unlabelled if one.kind == kind] for kind in ("ambiguous", "unlabelled")}
    parts = [f"{len(ones)} {kind} ({listed([one.name for one in ones])})" for kind, ones in kinds.items() if ones]
    # Half of the list for each kind, so that many of one do not hide the other.
    ambiguous, rest = ([one.name for one in ones] for ones in kinds.values())
    words = labelling.labels or (DEFAULT_LABELS if labelling.rule in ("auto", "filename") else ())
    where = f" of {', '.join(words[:10])}" if words else ""
    return BadDataset(
        f"Expected every picture to have one label{where}. Received: {', '.join(parts)}. The first: {unlabelled[0].reason}.",
        offenders=[*ambiguous[:10], *rest[:10], *ambiguous[10:], *rest[10:]],
        remedy="Rename these files (cat.12.jpg), put the pictures into one folder per label, send other labels, or leave them out with "
               "unlabelled=skip.",
    )


def _is_litter(name: str) -> bool:
    return any(part.startswith(".") or part.casefold() in _LEFT_BY_SYSTEMS for part in name.split("/"))


def _is_picture(name: str) -> bool:
    return name.casefold().endswith(SUFFIXES)


def _places(names: Sequence[str]) -> list[_Place]:
    folders = [name.split("/")[:-1] for name in names]
    first = {parts[0] if parts else "" for parts in folders}
    # One folder around everything says nothing, unless it is a split or itself the only label folder.
    wrapped = len(first) == 1 and any(len(parts) > 1 for parts in folders) and key(*first) not in _SPLIT_OF_FOLDER
    places = []
    for name, parts in zip(names, folders, strict=True):
        inner = parts[1:] if wrapped else parts
        split = _SPLIT_OF_FOLDER.get(key(inner[0])) if inner else None
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
        asked = {key(label): label for label in wanted}
        return {key(place.folder): asked[key(place.folder)] for place in places if place.folder and key(place.folder) in asked}
    found: dict[str, str] = {}
    for folder in sorted({place.folder for place in places if place.folder}, key=natural):
        found.setdefault(key(folder), folder)
    return found


def _by_folder(
    places: Sequence[_Place], folders: dict[str, str], wanted: Sequence[str] | None,
) -> tuple[list[Planned], list[Refused]]:
    bad = sorted({folder for folder in folders.values() if not can_be_label(folder)})
    if bad or len(folders) > MAX_LABELS:
        raise BadDataset(
            f"Expected at most {MAX_LABELS} label folders with names of 1 to {MAX_LABEL_LENGTH} visible characters. "
            f"Received: {len(folders)} ({listed([ascii(folder) for folder in bad or sorted(folders.values())])}).", offenders=bad,
        )
    expected = f"one of the folders {listed(list(wanted))}" if wanted else "a folder with its label's name"
    planned, unlabelled = [], []
    for place in places:
        if place.folder is not None and key(place.folder) in folders:
            planned.append(Planned(place.name, folders[key(place.folder)], place.split))
        else:
            unlabelled.append(Refused(place.name, "unlabelled", f"it does not lie in {expected}"))
    return planned, unlabelled


def _by_filename(places: Sequence[_Place], labels: Sequence[str]) -> tuple[list[Planned], list[Refused]]:
    if len(labels) > MAX_WORDS:
        raise BadDataset(
            f"Expected at most {MAX_WORDS} labels in file names. Received: {len(labels)}.",
            remedy="Put the pictures into one folder per label.",
        )
    planned, unlabelled = [], []
    for place in places:
        found = labels_in(place.name, labels)
        if len(found) == 1:
            planned.append(Planned(place.name, found[0], place.split))
        elif found:
            unlabelled.append(Refused(place.name, "ambiguous", f"the words {' and '.join(found)} stand in its name"))
        else:
            unlabelled.append(Refused(place.name, "unlabelled", f"none of the words {listed(list(labels))} stands in its name"))
    return planned, unlabelled


def _by_pattern(places: Sequence[_Place], labelling: Labelling) -> tuple[list[Planned], list[Refused]]:
    pattern = _compiled(labelling.pattern)
    asked = {key(label): label for label in labelling.labels or ()}
    planned, unlabelled = [], []
    for place in places:
        match = pattern.search(place.name)
        label = (match.group("label") or "").strip() if match else ""
        if asked:
            label = asked.get(key(label), "")
        if can_be_label(label):
            planned.append(Planned(place.name, label, place.split))
        else:
            unlabelled.append(Refused(place.name, "unlabelled", "the pattern finds no label in its name"))
    return planned, unlabelled


def _compiled(pattern: str | None) -> "re2._Regexp[str]":
    """RE2 answers in time linear in the name, whatever a stranger's pattern is."""
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 2**20
    try:
        compiled = re2.compile(pattern or "", options=options)
    except re2.error as error:
        raise BadDataset(f"Expected a regular expression (RE2). Received: {pattern!r} ({error}).") from error
    if "label" not in compiled.groupindex:
        raise BadDataset(
            f"Expected a pattern with a group named label. Received: {pattern!r}.", remedy=r"For instance (?P<label>[a-z]+)_\d+\.jpg$",
        )
    return compiled


def _by_manifest(
    places: Sequence[_Place], rows: dict[str, manifests.Row], wanted: Sequence[str] | None,
) -> tuple[list[Planned], list[Refused]]:
    asked = {key(label): label for label in wanted or ()}
    planned, unlabelled = [], []
    for place in places:
        row = rows.get(place.name)
        label = "" if row is None else asked.get(key(row.label), "") if asked else row.label
        if row is None:
            unlabelled.append(Refused(place.name, "unlabelled", "the manifest has no line for it"))
        elif not can_be_label(label):
            unlabelled.append(Refused(place.name, "unlabelled", f"the manifest says {row.label[:MAX_LABEL_LENGTH]!r}"))
        else:
            planned.append(Planned(place.name, label, row.split))
    _check_rows(planned)
    return planned, unlabelled


def _check_rows(planned: Sequence[Planned]) -> None:
    """A manifest gives a split to every picture, or to none."""
    without = [picture.name for picture in planned if picture.split is None]
    if without and len(without) < len(planned):
        raise BadDataset(
            f"Expected a split for every line of the manifest, as there are some. Received: {len(without)} without ({listed(without)}).",
            offenders=without,
        )


def _check_labels(planned: Sequence[Planned], wanted: Sequence[str] | None) -> list[str]:
    """The labels that were found, in natural order."""
    found = sorted({picture.label for picture in planned}, key=natural)
    absent = [label for label in wanted or () if label not in found]
    if len(found) < 2:
        received = f"{len(planned)} pictures, all of {found[0]}" if found else "no picture with a label"
        raise BadDataset(f"Expected pictures of at least two labels. Received: {received}.")
    if absent:
        raise BadDataset(f"Expected pictures of every label. Received: none of {listed(absent)}.")
    if len(found) > MAX_LABELS:
        raise BadDataset(f"Expected at most {MAX_LABELS} labels. Received: {len(found)}.")
    return found
