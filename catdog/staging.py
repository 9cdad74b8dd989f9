"""staged, discard, build, publish, keep_report: a data set being made, beside the place where it will be. It is there whole, or not at all.

Two processes may make the same data set at once, on hosts whose file locks do not see each other: one that was thought dead goes on. Both
then move equal files to equal names, and a folder is renamed before it is deleted, so that nobody moves half of it into place.
"""

import contextlib
import errno
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from catdog import datasets, report
from catdog.census import Census, Report, take
from catdog.datasets import Dataset
from catdog.errors import CatdogError, Unavailable
from catdog.files import sync_folder
from catdog.plans import Plan

_REPORTS = ("report.json", "report.html")
FLUSH_EVERY = 256
"""Files written between two flushes: the kernel then writes many at once, and an import does not wait for the disk once a file."""


@contextmanager
def staged(beside: Path) -> Iterator[Path]:
    """A new, empty folder `<beside>.staging-…`; afterwards it is gone, whatever happened.

    Raises:
        Unavailable: the disk is full, or somebody has discarded the folder.
    """
    beside.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{beside.name}.staging-", dir=beside.parent))
    try:
        yield folder
    except (OSError, CatdogError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Unavailable(f"Expected room for the data set on disk. Received: {error.strerror}.", remedy="Free disk space.") from error
        if not folder.exists():  # whatever went wrong, it says nothing about the pictures
            raise Unavailable("Expected to make the data set alone. Received: another process, which has begun anew.") from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def discard(folder: Path) -> None:
    """Delete a folder that somebody may still be at work on: whatever they do next with a path in it fails."""
    away = folder
    if ".discarded-" not in folder.name:
        away = folder.with_name(f"{folder.name}.discarded-{secrets.token_hex(4)}")
        with contextlib.suppress(OSError):
            folder.rename(away)
    shutil.rmtree(away, ignore_errors=True)


def build(
    folder: Path, plan: Plan, read: Callable[[str], bytes], modified: Callable[[str], int | None], *, seed: int, progress: Report = None,
) -> Dataset:
    """Read, decode and store every planned picture, share them out, and write the data set with its report into `folder`.

    `read` gives the bytes of a picture by its name, `modified` when it was changed, in unix seconds. Pictures that cannot be decoded,
    copies, and pictures of train that show what val or test shows are left out and listed.

    Raises:
        BadDataset: too many unreadable pictures, one picture under two labels, or too few pictures of a label; the report is there.
    """
    (folder / "images").mkdir()
    unflushed: list[Path] = []

    def store(sha256: str, data: bytes) -> None:
        path = datasets.image_path(folder, sha256)
        if not path.exists():
            path.parent.mkdir(exist_ok=True)  # not its parents: a discarded folder must not come back
            path.write_bytes(data)
            unflushed.append(path)
        if len(unflushed) >= FLUSH_EVERY:
            _flush(unflushed)

    census = take(plan, read, modified, seed=seed, progress=progress, store=store, scratch=folder)
    _flush(unflushed)
    _forget(folder, census)
    summary = report.summarise(census, plan)
    page = report.page(summary, census, lambda record: datasets.image_path(folder, record.sha256).read_bytes())
    for name, content in zip(_REPORTS, (json.dumps(summary, indent=1).encode(), page), strict=True):
        _write(folder / name, content)
    if census.problems:
        raise census.problems[0]
    header, lines = datasets.header_of(census.records, plan.labels, census.refused, seed=seed)
    _write(folder / "records.jsonl", lines)
    _write(folder / "dataset.json", header)
    for path in (*sorted((folder / "images").iterdir()), folder / "images", folder):
        sync_folder(path)
    return Dataset.open(folder)


def _forget(folder: Path, census: Census) -> None:
    """Delete the stored pictures that turned out to leak."""
    wanted = {record.sha256 for record in census.records}
    for path in (folder / "images").rglob("*"):
        if path.is_file() and path.name not in wanted:
            path.unlink()


def publish(folder: Path, place: Path) -> Dataset:
    """Move what `build` wrote to `place`, dataset.json last; what an interrupted import left there is replaced.

    Raises:
        Unavailable: the data set was given up in the meantime.
    """
    place.mkdir(parents=True, exist_ok=True)
    if (place / "refused.json").exists():  # looked for after `folder` was made: whoever refuses discards every folder that was made before
        raise Unavailable(f"Expected an upload that is wanted. Received: {place.name}, which was refused in the meantime.")
    try:
        (folder / "images").rename(place / "images")
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        _merge(folder / "images", place / "images")
    for name in ("records.jsonl", *_REPORTS):
        (folder / name).rename(place / name)
    sync_folder(place)
    (folder / "dataset.json").rename(place / "dataset.json")
    sync_folder(place)
    sync_folder(place.parent)
    return Dataset.open(place)


def keep_report(folder: Path, place: Path) -> None:
    """Of what `build` refused, move the report to `place`, where the upload lies: it says more than the refusal."""
    for name in _REPORTS:
        if (folder / name).exists() and place.is_dir():
            (folder / name).rename(place / name)


def _merge(images: Path, present: Path) -> None:
    """Make `present` equal to `images`, file by file: a picture that is in both is there at every moment."""
    wanted = {path.relative_to(images) for path in images.rglob("*") if path.is_file()}
    for name in wanted:
        (present / name).parent.mkdir(exist_ok=True)
        (images / name).replace(present / name)
    for path in present.rglob("*"):
        if path.is_file() and path.relative_to(present) not in wanted:
            path.unlink()
    for folder in (*sorted(present.iterdir()), present):
        sync_folder(folder)


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    _flush([path])


def _flush(paths: list[Path]) -> None:
    """fsync files and forget them."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    paths.clear()
