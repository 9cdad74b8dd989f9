"""staged, discard, build, publish: a data set being made, beside the place where it will be. It is there whole, or not at all.

Two processes may make the same data set at once, on hosts whose file locks do not see each other: one that was thought dead goes on. Both
then move equal files to equal names, and a folder is renamed before it is deleted, so that nobody moves half of it into place.
"""

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from catdog import datasets, images, splits
from catdog.datasets import Dataset, Planned, Record
from catdog.errors import BadDataset, BadImage, CatdogError, TooLarge, Unavailable, UnsupportedType
from catdog.files import sync_folder
from catdog.labels import listed, natural

MAX_UNREADABLE = 0.2
"""The share of a label's pictures that may be unreadable; above it something is wrong with the set and not with a few files."""
FLUSH_EVERY = 256
"""Files written between two flushes: the kernel then writes many at once, and an import does not wait for the disk once a file."""

Report = Callable[[int, int], None] | None
"""Called with (done, total) pictures."""


@dataclass(frozen=True, slots=True)
class _Seen:
    sha256: str
    planned: Planned
    width: int
    height: int


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
    away = folder.with_name(f"{folder.name}.discarded-{secrets.token_hex(4)}")
    with contextlib.suppress(OSError):
        folder.rename(away)
    shutil.rmtree(away, ignore_errors=True)


def build(
    folder: Path, pictures: Sequence[Planned], read: Callable[[str], bytes], *,
    labels: Sequence[str] | None, refused: Sequence[dict[str, str]], seed: int, progress: Report = None,
) -> Dataset:
    """Read, decode and store every planned picture, share them out, and write the data set into `folder`.

    `read` gives the bytes of a picture by its name. Pictures that cannot be decoded and exact copies are left out and listed.

    Raises:
        BadDataset: too many unreadable pictures, one picture under two labels, or too few pictures of a label.
    """
    seen, left_out = _store(folder, sorted(pictures, key=lambda picture: natural(picture.name)), read, progress)
    _check_readable(seen, left_out)
    kept, copies = _without_copies(seen)
    assigned = splits.assign([(one.sha256, one.planned.label, one.planned.split) for one in kept], seed=seed)
    records = [
        Record(one.sha256, one.planned.name, one.planned.label, split, one.width, one.height)
        for one, split in zip(kept, assigned, strict=True)
    ]
    # By content within a split: the same pictures under other names train the same network.
    records.sort(key=lambda record: (splits.SPLITS.index(record.split), record.sha256))
    ordered = list(labels) if labels is not None else sorted({record.label for record in records}, key=natural)
    unreadable = [{"name": planned.name, "reason": reason} for planned, reason in left_out]
    header, lines = datasets.header_of(records, ordered, [*refused, *unreadable, *copies], seed=seed)
    _write(folder / "records.jsonl", lines)
    _write(folder / "dataset.json", header)
    for path in (*sorted((folder / "images").iterdir()), folder / "images", folder):
        sync_folder(path)
    return Dataset.open(folder)


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
    (folder / "records.jsonl").rename(place / "records.jsonl")
    sync_folder(place)
    (folder / "dataset.json").rename(place / "dataset.json")
    sync_folder(place)
    sync_folder(place.parent)
    return Dataset.open(place)


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


def _store(
    folder: Path, pictures: Sequence[Planned], read: Callable[[str], bytes], progress: Report,
) -> tuple[list[_Seen], list[tuple[Planned, str]]]:
    seen, left_out, unflushed = [], [], []
    (folder / "images").mkdir()
    for done, planned in enumerate(pictures):
        if progress is not None:
            progress(done, len(pictures))
        data = read(planned.name)
        try:
            width, height = images.decode(data).size
        except (BadImage, UnsupportedType, TooLarge) as error:
            left_out.append((planned, error.message))
            continue
        digest = hashlib.sha256(data).hexdigest()
        seen.append(_Seen(digest, planned, width, height))
        path = datasets.image_path(folder, digest)
        if not path.exists():
            path.parent.mkdir(exist_ok=True)  # not its parents: a discarded folder must not come back
            path.write_bytes(data)
            unflushed.append(path)
        if len(unflushed) >= FLUSH_EVERY:
            _flush(unflushed)
    _flush(unflushed)
    if progress is not None:
        progress(len(pictures), len(pictures))
    return seen, left_out


def _check_readable(seen: Sequence[_Seen], left_out: Sequence[tuple[Planned, str]]) -> None:
    good = Counter(one.planned.label for one in seen)
    bad = Counter(planned.label for planned, _ in left_out)
    for label, number in sorted(bad.items()):
        total = number + good[label]
        if number > MAX_UNREADABLE * total:
            names = [planned.name for planned, _ in left_out if planned.label == label]
            first = next(reason for planned, reason in left_out if planned.label == label)
            raise BadDataset(
                f"Expected at most {MAX_UNREADABLE:.0%} unreadable pictures of {label}. "
                f"Received: {number} of {total} ({listed(names)}). The first: {first}",
                offenders=names,
            )


def _without_copies(seen: Sequence[_Seen]) -> tuple[list[_Seen], list[dict[str, str]]]:
    """Each content once. A copy in val or test wins over one in train, so that nothing is trained on that is tested on."""
    rank = {"test": 0, "val": 1, "train": 2, None: 2}
    kept: dict[str, _Seen] = {}
    copies: list[dict[str, str]] = []
    for one in sorted(seen, key=lambda one: (rank[one.planned.split], natural(one.planned.name))):
        first = kept.setdefault(one.sha256, one)
        if first.planned.label != one.planned.label:
            names = [first.planned.name, one.planned.name]
            raise BadDataset(
                f"Expected one label for one picture. Received: {names[0]} ({first.planned.label}) and "
                f"{names[1]} ({one.planned.label}) with the same content.",
                offenders=names, remedy="Remove the one that is labelled wrongly.",
            )
        if first is not one:
            copies.append({"name": one.planned.name, "reason": f"duplicate of {first.planned.name}"})
    return list(kept.values()), copies


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    _flush([path])


def _flush(paths: list[Path]) -> None:
    """fsync files and forget them."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    paths.clear()
