"""Shelf, Entry, EntryState: the data sets of this machine, and how far each has come.

    importing   archive.zip is there, or a request.json that names a source: accepted, and the importer's turn
    ready       dataset.json is there
    refused     refused.json is there: code, message, remedy, offenders

A folder with none of these is an upload that has not ended; for everybody but its uploader it does not exist.
"""

import json
import math
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from catdog.config import DATASET_ID
from catdog.datasets import Dataset
from catdog.errors import NotFound
from catdog.files import sync_folder, write_atomically
from catdog.staging import discard

ABANDONED_SECONDS = 3600.0
"""An upload or an import in whose folder nothing has changed for so long is not under way any more, on whichever host it was."""
_STAGING = re.compile(r".+\.(staging|discarded)-.+")
"""The folder beside a data set in which it is made, on this host or another, or was made."""


class EntryState(StrEnum):
    """How far a data set has come."""

    IMPORTING = "importing"
    READY = "ready"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Entry:
    """One data set of the shelf, as it stood when it was looked at."""

    folder: Path
    state: EntryState

    @property
    def id(self) -> str:
        """`ds_` and 32 hex digits."""
        return self.folder.name

    def describe(self) -> dict[str, Any]:
        """What GET answers: id, state, and the data set's summary or the error it was refused with."""
        head: dict[str, Any] = {"id": self.id, "state": self.state.value}
        if self.state is EntryState.READY:
            return head | Dataset.open(self.folder).summary() | head
        if self.state is EntryState.REFUSED:
            head["error"] = json.loads((self.folder / "refused.json").read_text())
        return head

    def outline(self) -> dict[str, Any]:
        """What the list of all data sets shows."""
        created = datetime.fromtimestamp(self.folder.stat().st_mtime, UTC).isoformat(timespec="seconds")
        return {"id": self.id, "state": self.state.value, "changed": created.replace("+00:00", "Z")}


class Shelf:
    """The folder that holds every data set. Methods may block on the disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def reserve(self) -> Path:
        """Make the folder of a data set to come."""
        folder = self._folder / f"ds_{uuid.uuid4().hex}"
        folder.mkdir()
        return folder

    def accept(self, folder: Path, request: dict[str, Any]) -> None:
        """Write down what is wanted of a reserved folder, durably. A request with a `source` is accepted by that."""
        with write_atomically(folder / "request.json") as path:
            path.write_text(json.dumps(request))
        sync_folder(self._folder)

    def entry(self, dataset_id: str) -> Entry:
        """Look up a data set.

        Raises:
            NotFound: there is none with this id.
        """
        # An id becomes a path only if it looks like one of ours.
        if re.fullmatch(DATASET_ID, dataset_id):
            folder = self._folder / dataset_id
            state = _state(folder)
            if state is not None:
                return Entry(folder, state)
        raise NotFound(f"Expected the id of a data set. Received: {dataset_id[:200]!r}.", remedy="List them with GET /v1/datasets.")

    def entries(self) -> list[Entry]:
        """Every data set, by id."""
        folders = sorted(path for path in self._folder.iterdir() if re.fullmatch(DATASET_ID, path.name))
        return [Entry(folder, state) for folder in folders if (state := _state(folder)) is not None]

    def importing(self) -> list[Entry]:
        """The data sets that wait for the importer, the one accepted first at the front."""
        waiting = [entry for entry in self.entries() if entry.state is EntryState.IMPORTING]
        return sorted(waiting, key=lambda entry: (_changed(entry.folder / "request.json"), entry.id))

    def refuse(self, folder: Path, *, code: str, message: str, remedy: str) -> None:
        """Give up a data set and say why, unless it is ready by then. What is being made of it elsewhere comes to nothing."""
        with write_atomically(folder / "refused.json") as path:
            path.write_text(json.dumps({"code": code, "message": message, "remedy": remedy, "offenders": []}))
        for unfinished in self._folder.glob(f"{folder.name}.staging-*"):
            discard(unfinished)  # from here on nobody can make it ready
        if _state(folder) is EntryState.REFUSED:
            for name in ("archive.zip", "records.jsonl", "report.json", "report.html"):
                (folder / name).unlink(missing_ok=True)
            shutil.rmtree(folder / "images", ignore_errors=True)

    def remove(self, entry: Entry) -> None:
        """Delete a data set that is ready or refused; from the first moment on nobody finds it."""
        discard(entry.folder)
        sync_folder(self._folder)

    def sweep(self) -> list[str]:
        """Remove what the dead left: uploads half sent, data sets half made, and the archives of those decided. Return what was removed."""
        archives = [entry.folder / "archive.zip" for entry in self.entries() if entry.state is not EntryState.IMPORTING]
        removed = []
        for archive in archives:
            if archive.exists():
                archive.unlink(missing_ok=True)
                removed.append(f"{archive.parent.name}/{archive.name}")
        for folder in list(self._abandoned()):
            discard(folder)
            removed.append(folder.name)
        return removed

    def _abandoned(self) -> Iterator[Path]:
        for path in self._folder.iterdir():
            unfinished = _STAGING.fullmatch(path.name) or (re.fullmatch(DATASET_ID, path.name) and _state(path) is None)
            # A deep look costs much: only where the first one finds nothing.
            if unfinished and all(time.time() - newest(path) > ABANDONED_SECONDS for newest in (_newest, _newest_below)):
                yield path


def _state(folder: Path) -> EntryState | None:
    if (folder / "dataset.json").exists():
        return EntryState.READY
    if (folder / "refused.json").exists():
        return EntryState.REFUSED
    if (folder / "archive.zip").exists():
        return EntryState.IMPORTING
    try:
        return EntryState.IMPORTING if "source" in json.loads((folder / "request.json").read_text()) else None
    except (OSError, ValueError):
        return None


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _newest(folder: Path) -> float:
    try:
        return max(_changed(path) for path in (folder, *folder.iterdir()))
    except OSError:  # it has vanished in the meantime: its uploader, or another service, removed it
        return math.inf


def _newest_below(folder: Path) -> float:
    return max((_changed(Path(root)) for root, _, _ in os.walk(folder)), default=math.inf)
