"""Labelling, plan, Plan, Planned, Refused: which pictures an import takes, under which labels, by the files' names alone.

No picture is opened here, so an upload can be refused from the directory of its zip, before a picture is read.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Self

import re2
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from catdog import manifests, splits
from catdog.errors import BadDataset
from catdog.labels import DEFAULT_LABELS, MAX_LABEL_LENGTH, MAX_LABELS, can_be_label, checked, key, labels_in, listed, natural
from catdog.places import SUFFIXES, Place, check_splits, is_litter, is_picture, places

Rule = Literal["auto", "filename", "folder", "manifest", "pattern"]

MAX_WORDS = 50
"""Labels that are looked for in file names: each name is searched for each of them, in the service, while the uploader waits."""
MAX_PATTERN_LENGTH = 500
MAX_PATTERN_SECONDS = 10.0
"""For all names together; an honest pattern takes microseconds a name."""
OTHER_PICTURES = (".heic", ".heif", ".avif", ".tif", ".tiff", ".jxl", ".jp2", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2")
"""Pictures that this version does not read."""


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
        elif self.pattern is not None:
            raise BadDataset(
                f"Expected the rule pattern, as there is a pattern. Received: {self.rule}.", remedy="Send rule=pattern, or no pattern.",
            )
        return self


@dataclass(frozen=True, slots=True)
class Refused:
    """A file that does not become a picture of the data set."""

    name: str
    kind: Literal["ambiguous", "unlabelled", "unsupported", "not_a_picture", "not_regular", "unreadable", "duplicate", "leak"]
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
    problems: list[BadDataset] = field(default_factory=list)
    """Why no data set comes of it."""


def plan(names: Iterable[str], labelling: Labelling | None = None, read: Callable[[str], bytes] | None = None) -> Plan:
    """As survey, for who wants a data set.

    Raises:
        BadDataset: as survey; also the first of the plan's problems, or too few pictures of a label.
    """
    surveyed = survey(names, labelling, read)
    if surveyed.problems:
        raise surveyed.problems[0]
    # The real split waits for the contents; were all of them different, this is how it would go.
    pictures = [(picture.name, picture.label, picture.split) for picture in surveyed.pictures]
    splits.check(pictures, splits.assign(pictures, seed=0))
    return surveyed


def survey(names: Iterable[str], labelling: Labelling | None = None, read: Callable[[str], bytes] | None = None) -> Plan:
    """Decide label and split of every picture from names alone (`/` parts folders; a name that ends in `/` is a folder).

    Folders around everything are looked through. Folders train (training), val (validation, dev) and test (testing) are splits. The rules:

        folder     the folder below them is the label
        filename   a label stands as a word in the base name: cat.12.jpg
        pattern    the group `label` of a regular expression
        manifest   manifest.csv or manifest.json says it: path, label and, if it likes, split; `read` gives its bytes
        auto       a manifest if there is one and it can be read; folders if pictures lie in at least two, unless file names say
                   otherwise; else file names

    Without `labels` the file names are searched for cat and dog, and any folder, match or word of a manifest is a label.

    Raises:
        BadDataset: no pictures, fewer than two labels, or files that leave open how they are meant.
    """
    labelling = labelling or Labelling()
    names = [name for name in names if not name.endswith("/")]
    files = sorted((name for name in names if not is_litter(name)), key=natural)
    pictures = [name for name in files if is_picture(name)]
    if not pictures:
        received = f"none among {len(files)} files" if files else "no files"
        raise BadDataset(f"Expected pictures ({', '.join(SUFFIXES)}). Received: {received}.", offenders=files)
    manifest = manifests.find(files, pictures) if read is not None and labelling.rule in ("auto", "manifest") else None
    refused = [_no_picture(name) for name in files if not is_picture(name) and name != manifest]
    planned, unlabelled = _labelled(places(pictures, labelling.labels or ()), labelling, manifest, read)
    found = _check_labels(planned, unlabelled, labelling)
    problems = [_unlabelled(unlabelled, labelling)] if unlabelled and labelling.unlabelled == "refuse" else []
    return Plan(planned, list(labelling.labels or found), [*refused, *unlabelled], ignored=len(names) - len(files), problems=problems)


def _no_picture(name: str) -> Refused:
    if name.casefold().endswith(OTHER_PICTURES):
        return Refused(name, "unsupported", f"a picture of a kind that is not read (only {', '.join(SUFFIXES)})")
    return Refused(name, "not_a_picture", f"not a picture ({', '.join(SUFFIXES)})")


def _labelled(
    places: Sequence[Place], labelling: Labelling, manifest: str | None, read: Callable[[str], bytes] | None,
) -> tuple[list[Planned], list[Refused]]:
    """The pictures with their labels, and those whose label cannot be told."""
    if labelling.rule == "manifest" and manifest is None:
        raise BadDataset(
            f"Expected a manifest beside the pictures: {' or '.join(manifests.NAMES)}. Received: none.",
            remedy="Add one, or take another rule.",
        )
    if manifest is not None and read is not None:
        return _by_manifest(places, manifests.rows(manifest, read(manifest), [place.name for place in places]), labelling.labels)
    check_splits(places)
    if labelling.rule == "pattern":
        return _by_pattern(places, labelling)
    folders = _label_folders(places, labelling.labels)
    if labelling.rule == "folder":
        return _by_folder(places, folders, labelling.labels)
    if labelling.rule == "auto" and len(folders) >= 2:
        if labelling.labels is None:
            _check_clear(places)
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


def _check_clear(places: Sequence[Place]) -> None:
    """Where folders and file names both tell labels, they must not contradict each other: 100APPLE/cat.1.jpg, 101APPLE/dog.1.jpg."""
    words = {place.name: labels_in(place.name, DEFAULT_LABELS) for place in places}
    other = [place for place in places if len(words[place.name]) == 1 and words[place.name][0] not in key(place.folder or "")]
    if len(other) > len(places) / 2 and len({words[place.name][0] for place in other}) >= 2:
        raise BadDataset(
            f"Expected folders or file names to tell the labels. Received: both, and different ones: {other[0].name} would be "
            f"{other[0].folder} by its folder and {words[other[0].name][0]} by its name.",
            offenders=[place.name for place in other], remedy="Say which is meant: rule=folder or rule=filename.",
        )


def _label_folders(places: Sequence[Place], wanted: Sequence[str] | None) -> dict[str, str]:
    """Which label each folder stands for, by its key: those that were asked for, else every folder (`Cat` and `cat` are one label)."""
    if wanted is not None:
        asked = {key(label): label for label in wanted}
        return {key(place.folder): asked[key(place.folder)] for place in places if place.folder and key(place.folder) in asked}
    found: dict[str, str] = {}
    for folder in sorted({place.folder for place in places if place.folder}, key=natural):
        found.setdefault(key(folder), folder)
    return found


def _by_folder(
    places: Sequence[Place], folders: dict[str, str], wanted: Sequence[str] | None,
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


def _by_filename(places: Sequence[Place], labels: Sequence[str]) -> tuple[list[Planned], list[Refused]]:
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


class _Spelling:
    """One spelling for each label, as `Cat` and `cat` are one: the one that was asked for, else the one that was met first."""

    def __init__(self, wanted: Sequence[str] | None) -> None:
        self._is_open = wanted is None
        self._known = {key(label): label for label in wanted or ()}

    def __call__(self, label: str) -> str:
        """Empty: not among the wanted."""
        return self._known.setdefault(key(label), label) if self._is_open else self._known.get(key(label), "")


def _by_pattern(places: Sequence[Place], labelling: Labelling) -> tuple[list[Planned], list[Refused]]:
    pattern = _compiled(labelling.pattern)
    spelling = _Spelling(labelling.labels)
    planned, unlabelled = [], []
    until = time.monotonic() + MAX_PATTERN_SECONDS
    for place in places:
        if time.monotonic() > until:
            raise BadDataset(
                f"Expected a pattern that all names are searched for in {MAX_PATTERN_SECONDS:g} s. Received: {labelling.pattern!r}, which "
                f"took longer for {len(places)} names.", remedy="Take a simpler one, without repetitions inside repetitions.",
            )
        match = pattern.search(place.name)
        label = spelling((match.group("label") or "").strip() if match else "")
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
        reason = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else error
        raise BadDataset(
            f"Expected a regular expression (RE2). Received: {pattern!r} ({reason}).", remedy=r"For instance (?P<label>[a-z]+)_\d+\.jpg$",
        ) from error
    if "label" not in compiled.groupindex:
        raise BadDataset(
            f"Expected a pattern with a group named label. Received: {pattern!r}.", remedy=r"For instance (?P<label>[a-z]+)_\d+\.jpg$",
        )
    return compiled


def _by_manifest(
    places: Sequence[Place], rows: dict[str, manifests.Row], wanted: Sequence[str] | None,
) -> tuple[list[Planned], list[Refused]]:
    spelling = _Spelling(wanted)
    planned, unlabelled = [], []
    for place in places:
        row = rows.get(place.name)
        label = "" if row is None else spelling(row.label)
        if row is None:
            unlabelled.append(Refused(place.name, "unlabelled", "the manifest has no line for it"))
        elif not can_be_label(label):
            unlabelled.append(Refused(place.name, "unlabelled", f"the manifest says {row.label[:MAX_LABEL_LENGTH]!r}"))
        else:
            planned.append(Planned(place.name, label, row.split))
    if any(picture.split for picture in planned):
        _check_rows(planned)
        return planned, unlabelled
    check_splits(places)
    split_of = {place.name: place.split for place in places}
    return [replace(picture, split=split_of[picture.name]) for picture in planned], unlabelled


def _check_rows(planned: Sequence[Planned]) -> None:
    """A manifest gives a split to every picture, or to none: then folders may."""
    without = [picture.name for picture in planned if picture.split is None]
    if without:
        raise BadDataset(
            f"Expected a split for every line of the manifest, as there are some. Received: {len(without)} without ({listed(without)}).",
            offenders=without,
        )


def _check_labels(planned: Sequence[Planned], unlabelled: Sequence[Refused], labelling: Labelling) -> list[str]:
    """The labels that were found, in natural order."""
    found = sorted({picture.label for picture in planned}, key=natural)
    absent = [label for label in labelling.labels or () if label not in found]
    if (len(found) < 2 or absent) and unlabelled and labelling.unlabelled == "refuse":
        raise _unlabelled(unlabelled, labelling)
    if len(found) < 2:
        received = f"{len(planned)} pictures, all of {found[0]}" if found else "no picture with a label"
        raise BadDataset(f"Expected pictures of at least two labels. Received: {received}.")
    if absent:
        raise BadDataset(f"Expected pictures of every label. Received: none of {listed(absent)}.")
    if len(found) > MAX_LABELS:
        raise BadDataset(f"Expected at most {MAX_LABELS} labels. Received: {len(found)}.")
    return found
