"""repack: the regular files of a tar.gz, read once from front to back, as a zip. Nothing is extracted to a path that a tar names."""

import gzip
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

from catdog.downloads import Report
from catdog.errors import BadDataset, TooLarge
from catdog.files import write_atomically
from catdog.settings import Settings

_BLOCK_BYTES = 2**20
_OLDEST, _NEWEST = 315_532_800, 4_354_819_198
"""Unix seconds between which a zip can tell a time: the years 1980 to 2107."""


def repack(
    tarball: Path, zipped: Path, name_of: Callable[[str], str | None], *, settings: Settings, progress: Report = None,
) -> Path:
    """Write the files of `tarball` to the zip `zipped`, which appears when it is whole.

    `name_of` is given the name of each regular file in the tar and gives its name in the zip, or None to leave it out. Links, devices and
    folders are left out. Everything that the tar unpacks to is counted, also what is left out. `progress` is told packed bytes.

    Raises:
        TooLarge: over max_unpacked_bytes, max_image_bytes or max_archive_files of `settings`.
        BadDataset: no tar.gz, or a damaged one.
    """
    try:
        with (
            tarball.open("rb") as packed, write_atomically(zipped) as unfinished, zipfile.ZipFile(unfinished, "w") as target,
            _Counted(packed, settings.max_unpacked_bytes) as unpacked, tarfile.open(fileobj=unpacked, mode="r|") as source,
        ):
            size = tarball.stat().st_size
            for number, entry in enumerate(source, 1):
                _check(entry, number, settings)
                name = name_of(entry.name) if entry.isreg() and not entry.issparse() else None
                file = source.extractfile(entry) if name else None
                if name and file:
                    target.writestr(_header(name, entry), file.read())
                if progress is not None:
                    progress(packed.tell(), size)
            while unpacked.read(_BLOCK_BYTES):
                pass  # the gzip's checksum stands behind the tar's end
            if progress is not None:
                progress(size, size)  # what follows is the disk's time
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, ValueError, OverflowError) as error:
        raise BadDataset(f"Expected a whole tar.gz. Received: {tarball.name}, which is damaged ({error}).") from error
    return zipped


class _Counted(gzip.GzipFile):
    """What a gzip unpacks to; TooLarge after so many bytes."""

    def __init__(self, packed: IO[bytes], limit: int) -> None:
        super().__init__(fileobj=packed)
        self._limit = limit

    def read(self, size: int | None = -1) -> bytes:
        """At most `size` more bytes."""
        data = super().read(size)
        if self.tell() > self._limit:
            raise TooLarge(f"Expected a tar.gz that unpacks to at most {self._limit} bytes. Received: more.", limit=self._limit)
        return data


def _check(entry: tarfile.TarInfo, number: int, settings: Settings) -> None:
    if number > settings.max_archive_files:
        limit = settings.max_archive_files
        raise TooLarge(f"Expected a tar of at most {limit} files. Received: more.", limit=limit)
    if entry.isreg() and entry.size > settings.max_image_bytes:
        limit = settings.max_image_bytes
        raise TooLarge(f"Expected files of at most {limit} bytes. Received: {entry.name!a} with {entry.size}.", limit=limit)


def _header(name: str, entry: tarfile.TarInfo) -> zipfile.ZipInfo:
    """Stored, not deflated: pictures do not shrink."""
    seconds = min(max(int(entry.mtime), _OLDEST), _NEWEST)
    return zipfile.ZipInfo(name, time.gmtime(seconds)[:6])
