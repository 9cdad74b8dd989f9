"""Archive: a zip that somebody sent, looked at before anything in it is believed.

Nothing is ever extracted to a path that the archive names: entries are read into memory one by one. What the directory says about
sizes is checked first and then counted while reading, because it may lie.
Not covered: a picture that harms its decoder (images.py says where such bytes belong).
"""

import re
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from catdog.errors import BadDataset, TooLarge, UnsupportedType
from catdog.labels import listed
from catdog.settings import Settings

MAX_DEPTH = 6
"""Folders above a file."""
MAX_RATIO = 100
"""Unpacked to packed bytes of one entry; pictures hardly shrink at all."""
RATIO_FROM_BYTES = 2**20
"""Smaller entries may shrink as they like."""
MAX_NAME_BYTES = 1024
MAX_DIRECTORY_BYTES = 64 * 2**20

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_NESTED = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".jar", ".cab", ".iso")
_ENCRYPTED, _STRONGLY_ENCRYPTED, _MASKED = 0x1, 0x40, 0x2000
_LOCAL_HEADER_BYTES = 30
_END, _END_64, _LOCATOR_64, _ENTRY = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"PK\x01\x02"


class Archive:
    """An open zip whose directory has passed every check. Use it as a context manager."""

    def __init__(self, path: Path, settings: Settings) -> None:
        """Open and check it.

        Raises:
            UnsupportedType: not a zip.
            TooLarge: over a limit of `settings`: the archive, one file, all files, their number.
            BadDataset: damaged, or an entry that no honest archive has.
        """
        self._settings = settings
        size = path.stat().st_size
        if size > settings.max_archive_bytes:
            limit = settings.max_archive_bytes
            raise TooLarge(f"Expected an archive of at most {limit} bytes. Received: {size} bytes.", limit=limit)
        with path.open("rb") as file:
            start, end = _directory(file, size)
            _count_entries(file, start, end, most=settings.max_archive_files)
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
            raise _damaged(str(error)) from error
        try:
            self._entries = {entry.filename: entry for entry in self._zip.infolist()}
            _check_entries(self._zip.infolist(), start)
            _check_sizes(self._zip.infolist(), settings)
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._zip.close()

    @property
    def names(self) -> list[str]:
        """Every entry in the archive's order; folders end in `/`."""
        return list(self._entries)

    def read(self, name: str) -> bytes:
        """The bytes of one entry, their number and checksum compared with the directory.

        Raises:
            BadDataset: damaged, or not as many bytes as the directory says: its sum is within max_unpacked_bytes.
        """
        entry = self._entries[name]
        try:
            with self._zip.open(entry) as stream:
                # zipfile stops at the size of the directory and compares the checksum there.
                data = stream.read(self._settings.max_image_bytes + 1)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, UnicodeDecodeError, struct.error) as error:
            raise _damaged(f"{name}: {error}") from error
        if len(data) != entry.file_size:
            raise _damaged(f"{name}: {len(data)} bytes where the directory says {entry.file_size}")
        return data

    def modified(self, name: str) -> int | None:
        """When the entry was last changed, by its zip's word: unix seconds, without a time zone. None: it names no day that exists."""
        try:
            return int(datetime(*self._entries[name].date_time, tzinfo=UTC).timestamp())
        except ValueError:
            return None


def _damaged(what: str) -> BadDataset:
    remedy = "Pack the files again and upload the new zip."
    return BadDataset(f"Expected a whole zip archive. Received: a damaged one ({what}).", remedy=remedy)


def _directory(file: IO[bytes], size: int) -> tuple[int, int]:
    """Where the directory begins and ends, by our own reading: zipfile would load all of it before anything can be checked."""
    head = file.read(4)
    if head not in (b"PK\x03\x04", _END):
        received = f"{size} bytes that begin with {head!r}" if size else "an empty file"
        raise UnsupportedType(f"Expected a zip archive. Received: {received}.", remedy="Send the data set as zip.")
    base = max(0, size - 22 - 65_535)  # the end record and the longest comment behind it
    file.seek(base)
    tail = file.read()
    place = tail.rfind(_END)
    if place < 0 or len(tail) - place < 22:
        raise _damaged("its directory is missing; was the upload cut off?")
    disks, length, start = struct.unpack("<4xH6xLL2x", tail[place : place + 22])
    end = base + place
    locator = base + place - 20
    if locator >= 0:
        file.seek(locator)
        signature, position = struct.unpack("<4s4xQ4x", file.read(20))
        if signature == _LOCATOR_64:
            file.seek(min(position, size))
            record = file.read(56)
            # zipfile reads the one right before the locator, wherever the locator points (CVE-2025-8291): there must be only one to read.
            if position + 56 != locator or record[:4] != _END_64:
                raise _damaged("its zip64 record is not where it says")
            length, start, end = *struct.unpack("<QQ", record[40:56]), position
    if disks:
        raise _damaged("a part of a split archive")
    if start + length != end:
        raise _damaged("something stands before or behind its directory")
    if length > MAX_DIRECTORY_BYTES:
        raise TooLarge(f"Expected a zip directory of at most {MAX_DIRECTORY_BYTES} bytes. Received: {length}.", limit=MAX_DIRECTORY_BYTES)
    return start, end


def _count_entries(file: IO[bytes], start: int, end: int, *, most: int) -> None:
    """Walk the directory and stop at the limit: a million empty entries would fill the memory."""
    file.seek(start)
    position, entries = start, 0
    while position < end:
        head = file.read(46)
        if len(head) < 46 or head[:4] != _ENTRY:
            raise _damaged("its directory is broken")
        entries += 1
        if entries > most:
            raise TooLarge(f"Expected an archive of at most {most} files. Received: more.", limit=most)
        rest = sum(struct.unpack("<HHH", head[28:34]))  # name, extra, comment
        file.seek(rest, 1)
        position += 46 + rest


def _check_sizes(entries: list[zipfile.ZipInfo], settings: Settings) -> None:
    for entry in entries:
        if entry.file_size > settings.max_image_bytes:
            raise TooLarge(
                f"Expected files of at most {settings.max_image_bytes} bytes. Received: {entry.filename} with {entry.file_size}.",
                limit=settings.max_image_bytes,
            )
    total = sum(entry.file_size for entry in entries)
    if total > settings.max_unpacked_bytes:
        limit = settings.max_unpacked_bytes
        raise TooLarge(f"Expected an archive that unpacks to at most {limit} bytes. Received: {total}.", limit=limit)


def _check_entries(entries: list[zipfile.ZipInfo], directory: int) -> None:
    """Refuse the archive for the first kind of wrong entry, naming the entries that are of it."""
    checks: tuple[tuple[str, Callable[[zipfile.ZipInfo], bool]], ...] = (
        ("names that stay inside the archive (no .., no drive, no leading or back slash, no control characters)", _escapes),
        (f"names of at most {MAX_NAME_BYTES} bytes, at most {MAX_DEPTH} folders deep", _is_too_long),
        ("only regular files and folders (no links, no devices)", _is_special),
        ("files without a password", lambda entry: bool(entry.flag_bits & (_ENCRYPTED | _STRONGLY_ENCRYPTED | _MASKED))),
        ("files that are stored or deflated", lambda entry: entry.compress_type not in _METHODS),
        ("no archives inside the archive", lambda entry: entry.filename.casefold().endswith(_NESTED)),
        (f"files that unpack to at most {MAX_RATIO} times their size", _is_bomb),
    )
    for expected, is_wrong in checks:
        _refuse(f"Expected {expected}", [entry for entry in entries if is_wrong(entry)])
    _refuse("Expected different names, also where case and accents are not told apart", list(_repeated(entries)))
    _refuse("Expected entries that do not share bytes", list(_overlapping(entries, directory)))


def _refuse(expected: str, wrong: list[zipfile.ZipInfo]) -> None:
    if wrong:
        # ascii(): the name may hold what a terminal or a log would obey. orig_filename: zipfile cuts a name at its first NUL.
        names = [ascii(entry.orig_filename)[1:-1] for entry in wrong]
        raise BadDataset(f"{expected}. Received: {listed(names)}.", offenders=names, remedy="Pack the pictures again, into a plain zip.")


def _escapes(entry: zipfile.ZipInfo) -> bool:
    name = entry.orig_filename
    parts = name.removesuffix("/").split("/")
    return (
        (not name.isprintable() and any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name))
        or "\\" in name or bool(re.match(r"[A-Za-z]:", name))
        # Windows drops dots and spaces at the end: `.. ` would be `..` there. An empty part is a leading or a double slash.
        or any(part.rstrip(". ") == "" or part != part.rstrip(". ") for part in parts)
    )


def _is_too_long(entry: zipfile.ZipInfo) -> bool:
    return len(entry.filename.encode()) > MAX_NAME_BYTES or entry.filename.removesuffix("/").count("/") > MAX_DEPTH


def _is_special(entry: zipfile.ZipInfo) -> bool:
    mode = entry.external_attr >> 16
    if entry.is_dir():
        return stat.S_IFMT(mode) not in (0, stat.S_IFDIR) or entry.file_size > 0
    return stat.S_IFMT(mode) not in (0, stat.S_IFREG) or bool(mode & (stat.S_ISUID | stat.S_ISGID))


def _is_bomb(entry: zipfile.ZipInfo) -> bool:
    return entry.file_size > RATIO_FROM_BYTES and entry.file_size > MAX_RATIO * max(1, entry.compress_size)


def _repeated(entries: list[zipfile.ZipInfo]) -> Iterator[zipfile.ZipInfo]:
    seen: set[str] = set()
    for entry in entries:
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", entry.filename).casefold()).removesuffix("/")
        if key in seen:
            yield entry
        seen.add(key)


def _overlapping(entries: list[zipfile.ZipInfo], directory: int) -> Iterator[zipfile.ZipInfo]:
    """Entries whose bytes reach into the next entry or the directory: one kernel unpacked a thousand times (zip bombs do that)."""
    ordered = sorted(entries, key=lambda entry: entry.header_offset)
    limits = [*(entry.header_offset for entry in ordered), directory][1:]
    for entry, limit in zip(ordered, limits, strict=True):
        # At least so long; the local header may hold further fields, which a reader skips.
        if entry.header_offset + _LOCAL_HEADER_BYTES + len(entry.orig_filename) + entry.compress_size > limit:
            yield entry
