"""Dataset, Record: labelled pictures in a folder, never changed once they are there.

    <id>/
      dataset.json              labels, counts, fingerprint, what was refused; renamed into place last: without it there is no data set
      records.jsonl             a line for each picture
      report.json, report.html  what is in it, for programs and for people (report.py)
      images/<aa>/<sha256>      its bytes as they came, stored once, named by their hash (<aa> are its first two digits)

How such a folder comes to be: sources.py.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from catdog.errors import DatasetChanged, NotFound
from catdog.plans import Refused
from catdog.splits import SPLITS

FORMAT = 2
"""The number of this layout, in dataset.json."""
MAX_SHOWN = 100
"""Refused files that a summary lists; the folder keeps them all."""


@dataclass(frozen=True, slots=True)
class Record:
    """One picture of a data set."""

    sha256: str
    """Of its bytes, in hex."""
    name: str
    """As the user called it, folders included."""
    label: str
    split: str
    """train, val or test."""
    width: int
    """Pixels, once it is upright."""
    height: int
    bytes: int
    format: str
    """As Pillow calls it: JPEG, PNG, ..."""
    mode: str
    """How its pixels are stored: L, P, RGBA, CMYK, I;16, ..."""
    orientation: int
    """EXIF's, 1 to 8; 1 is upright."""
    modified: int | None
    """When the file was last changed, by its folder or zip: unix seconds."""
    group: str
    """The first sha256 of the pictures that show the same as this one; empty where there is no other."""


@dataclass(frozen=True)
class Dataset:
    """A data set that is complete on disk."""

    folder: Path
    id: str
    labels: tuple[str, ...]
    """In the order of the network's outputs."""
    fingerprint: str
    """Of contents, labels and splits; names and refused files do not count."""
    counts: dict[str, dict[str, int]]
    """Pictures by split and label."""
    refused: list[dict[str, str]]
    """The files that were left out: `name`, `kind` and `reason`."""
    records: tuple[Record, ...]

    @classmethod
    def open(cls, folder: Path) -> "Dataset":
        """Read a data set; its id is its folder's name. The pictures are not read here.

        Raises:
            NotFound: there is none, or it never became complete.
            DatasetChanged: its files are not as they were written.
        """
        try:
            header = json.loads((folder / "dataset.json").read_bytes())
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFound(f"Expected a data set. Received: {folder.name}, which is none.") from error
        except ValueError as error:
            raise DatasetChanged(f"Expected dataset.json as it was written. Received, in {folder.name}: no JSON.") from error
        try:
            lines = (folder / "records.jsonl").read_bytes()
        except FileNotFoundError as error:
            raise DatasetChanged(f"Expected the records of {folder.name}. Received: no records.jsonl.") from error
        digest = hashlib.sha256(lines).hexdigest()
        try:
            if header["format"] != FORMAT:
                raise DatasetChanged(f"Expected the data set {folder.name} in format {FORMAT}. Received: format {header['format']}.")
            if header["records_sha256"] != digest:
                raise DatasetChanged(
                    f"Expected records.jsonl of {folder.name} with sha256 {header['records_sha256'][:16]}. Received: {digest[:16]}.",
                )
            return cls(
                folder=folder, id=folder.name, labels=tuple(header["labels"]), fingerprint=header["fingerprint"],
                counts=header["counts"], refused=header["refused"],
                records=tuple(Record(**json.loads(line)) for line in lines.splitlines()),
            )
        except (KeyError, TypeError) as error:
            raise DatasetChanged(f"Expected dataset.json with all its fields. Received, in {folder.name}: {error}.") from error

    def split(self, name: str) -> list[Record]:
        """The records of train, val or test, always in the same order."""
        return [record for record in self.records if record.split == name]

    def path(self, record: Record) -> Path:
        """Where the picture's bytes lie."""
        return image_path(self.folder, record.sha256)

    def read(self, record: Record) -> bytes:
        """The picture's bytes, compared with their hash.

        Raises:
            DatasetChanged: they are gone, or not the ones that were imported.
        """
        try:
            data = self.path(record).read_bytes()
        except FileNotFoundError as error:
            raise DatasetChanged(f"Expected {record.name} in the data set {self.id}. Received: no file {record.sha256}.") from error
        if hashlib.sha256(data).hexdigest() != record.sha256:
            raise DatasetChanged(f"Expected {record.name} of the data set {self.id} as it was imported. Received: other bytes.")
        return data

    def target(self, record: Record) -> int:
        """The index of the record's label: the network's output for it."""
        return self._targets[record.label]

    @cached_property
    def _targets(self) -> dict[str, int]:
        return {label: target for target, label in enumerate(self.labels)}

    def summary(self) -> dict[str, Any]:
        """What a client is shown; of the refused files the first MAX_SHOWN."""
        return {
            "id": self.id, "labels": list(self.labels), "images": len(self.records), "counts": self.counts, "fingerprint": self.fingerprint,
            "refused": self.refused[:MAX_SHOWN], "refused_count": len(self.refused),
        }


def image_path(folder: Path, sha256: str) -> Path:
    """Where a data set's folder keeps the bytes with this hash."""
    return folder / "images" / sha256[:2] / sha256


def count(records: Iterable[Record], labels: Sequence[str]) -> dict[str, dict[str, int]]:
    """Pictures by split and label, zeros included."""
    counts = {split: dict.fromkeys(labels, 0) for split in SPLITS}
    for record in records:
        counts[record.split][record.label] += 1
    return counts


def fingerprint_of(records: Iterable[Record], labels: Sequence[str]) -> str:
    """sha256 in hex over (content, label, split) of all records, in any order, and the ordered labels."""
    rows = sorted((record.sha256, record.label, record.split) for record in records)
    return hashlib.sha256(json.dumps([list(labels), rows]).encode()).hexdigest()


def header_of(records: Sequence[Record], labels: Sequence[str], refused: Sequence[Refused], *, seed: int) -> tuple[bytes, bytes]:
    """The bytes of dataset.json and of records.jsonl."""
    lines = "".join(json.dumps(asdict(record)) + "\n" for record in records).encode()
    header = {
        "format": FORMAT, "labels": list(labels), "fingerprint": fingerprint_of(records, labels), "seed": seed,
        "counts": count(records, labels), "records_sha256": hashlib.sha256(lines).hexdigest(), "refused": [asdict(one) for one in refused],
    }
    return (json.dumps(header, indent=1) + "\n").encode(), lines
