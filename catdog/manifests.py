"""find, rows, Row: a table beside the pictures that says the label of each: manifest.csv or manifest.json.

    path,label,split
    photos/0001.jpg,cat,train

In JSON a list of objects with the same keys. `split` is optional. Paths are compared with the names of the pictures; none is ever opened.
"""

import csv
import io
import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from catdog.errors import BadDataset
from catdog.labels import listed, shown
from catdog.places import around, split_named

NAMES = ("manifest.csv", "manifest.json")
MAX_BYTES = 32 * 2**20
MAX_CELL = 2048


@dataclass(frozen=True, slots=True)
class Row:
    """One line."""

    label: str
    split: str | None


def find(names: Sequence[str], pictures: Sequence[str]) -> str | None:
    """The manifest among the names, in a folder that all pictures lie in. Upper and lower case do not matter.

    Raises:
        BadDataset: there are two, or one that stands beside some of the pictures only.
    """
    there = [name for name in names if name.rpartition("/")[2].casefold() in NAMES]
    if not there:
        return None
    if len(there) > 1:
        remedy = "Remove the others, or take another rule."
        raise BadDataset(f"Expected one manifest. Received: {listed(there)}.", offenders=there, remedy=remedy)
    folders = there[0].split("/")[:-1]
    if folders != around(pictures)[: len(folders)]:
        raise BadDataset(
            f"Expected the manifest in a folder that all pictures lie in. Received: {there[0]}.", offenders=there,
            remedy="Move it there, or take the rule folder or filename, which read no manifest.",
        )
    return there[0]


def rows(manifest: str, data: bytes, pictures: Sequence[str]) -> dict[str, Row]:
    """The rows by the names of the pictures. `manifest` is its name: paths are relative to its folder.

    Raises:
        BadDataset: no table of path, label and perhaps split; an unknown or repeated path; an unknown split. The first ones are named.
    """
    if len(data) > MAX_BYTES:
        raise BadDataset(f"Expected a manifest of at most {MAX_BYTES} bytes. Received: {len(data)}.")
    folder, separator, _ = manifest.rpartition("/")
    known = {_normal(name): name for name in pictures}
    found: dict[str, Row] = {}
    unknown: list[str] = []
    repeated: list[str] = []
    for number, fields in enumerate(_table(manifest, data), 1):
        path, row = _row(fields, number)
        name = known.get(_normal(folder + separator + path))
        if name is None:
            unknown.append(path)
        elif name in found:
            repeated.append(path)
        else:
            found[name] = row
    for kind, paths in (("that are there", unknown), ("once each", repeated)):
        if paths:
            shown = [_shown(path) for path in paths]
            raise BadDataset(
                f"Expected in the manifest paths of pictures {kind}. Received: {len(paths)} others ({', '.join(shown[:5])}).",
                offenders=shown, remedy="Correct these lines; paths are relative to the manifest, with / between folders.",
            )
    return found


def _table(manifest: str, data: bytes) -> Iterator[Mapping[str, Any]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadDataset(f"Expected a manifest in UTF-8. Received: other bytes at {error.start}.", remedy="Save it as UTF-8.") from error
    if manifest.casefold().endswith(".json"):
        try:
            listed = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadDataset(f"Expected manifest.json to be JSON. Received: {error}.") from error
        if not isinstance(listed, list) or not all(isinstance(fields, dict) for fields in listed):
            raise BadDataset('Expected manifest.json to be a list of {"path", "label", "split"}. Received: something else.')
        yield from listed
        return
    csv.field_size_limit(MAX_CELL)
    try:
        yield from csv.DictReader(io.StringIO(text, newline=""), strict=True)
    except csv.Error as error:
        raise BadDataset(f"Expected manifest.csv to be a table with commas. Received: {error}.") from error


def _row(fields: Mapping[str, Any], number: int) -> tuple[str, Row]:
    """A line's path, label and split."""
    if None in fields or not {"path", "label"} <= set(fields) <= {"path", "label", "split"}:
        raise BadDataset(
            f"Expected the columns path, label and perhaps split. Received: line {number} {_shown(', '.join(map(str, fields)))}.",
            remedy="Begin manifest.csv with the line path,label,split.",
        )
    path, label, split = fields["path"], fields["label"], fields.get("split") or None
    if not (isinstance(path, str) and path and isinstance(label, str) and label.strip()):
        raise BadDataset(f"Expected a path and a label in each line of a manifest. Received: line {number} {_shown(str(dict(fields)))}.")
    meant = split_named(split.strip()) if isinstance(split, str) else None
    if split is not None and meant is None:
        raise BadDataset(f"Expected train, val or test as split. Received: in line {number} of the manifest {str(split)[:64]!r}.")
    return path, Row(label.strip(), meant)


def _shown(text: str) -> str:
    return shown(text)[:200]


def _normal(path: str) -> str:
    return unicodedata.normalize("NFC", path.removeprefix("./"))
