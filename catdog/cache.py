"""Cache, Pictures, key_of: decoded pictures in files that are mapped into memory, so that later epochs pay no JPEG.

    <folder>/
      <key>             the pixels of all pictures, one after the other, then the CRC-32 of each; renamed into place when whole
      <aa>.lock         held by whoever makes a <key> that begins so: a second job waits, and then finds it made
      lock              held while room is made

A key is a hash of everything that decides the pixels, so a file is never stale: what changes makes another key. Files are only
ever made, read and removed, never changed. Who has one open keeps it when it is removed: it is gone from the disk when they close.
"""

import contextlib
import errno
import hashlib
import json
import mmap
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from PIL import features

from catdog.files import write_atomically

FORMAT = 2
"""The number of this layout. Another one makes every key another."""

Shape = tuple[int, int, int]
"""Height, width and channels."""


def key_of(contents: Sequence[str], **facts: Any) -> str:
    """The key of pictures with these sha256 in this order, made as `facts` (of JSON) say, by this Pillow and its JPEG decoder."""
    decoder = [PIL.__version__, features.version("jpg"), features.version("libjpeg_turbo")]
    return hashlib.sha256(json.dumps([FORMAT, decoder, facts, list(contents)], sort_keys=True).encode()).hexdigest()


class Pictures:
    """The pixels of pictures, mapped into memory: pictures[3] is (H, W, 3) uint8, read-only."""

    def __init__(self, path: Path, shapes: Sequence[Shape]) -> None:
        """Map a file that is known to be whole.

        Raises:
            FileNotFoundError: there is none.
            ValueError: its size or the CRC-32 of a picture is not what it should be.
        """
        self._shapes = list(shapes)
        self._starts = [0, *accumulate(height * width * channels for height, width, channels in shapes)]
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != bytes_of(shapes):
                raise ValueError(f"Expected {bytes_of(shapes)} bytes in {path.name}.")
            self._bytes = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        sums = np.frombuffer(self._bytes[self._starts[-1] :], dtype="<u4").tolist()
        for position, (start, end) in enumerate(pairwise(self._starts)):
            if zlib.crc32(self._bytes[start:end]) != sums[position]:
                raise ValueError(f"Expected picture {position} in {path.name} as it was written.")

    def __len__(self) -> int:
        return len(self._shapes)

    def __getitem__(self, position: int) -> NDArray[np.uint8]:
        start, end = self._starts[position], self._starts[position + 1]
        return np.frombuffer(self._bytes[start:end], dtype=np.uint8).reshape(self._shapes[position])


@dataclass(frozen=True, slots=True)
class Cache:
    """A folder of decoded pictures that never holds more than `limit` bytes; what was used longest ago goes first."""

    folder: Path
    limit: int
    used: set[str] = field(default_factory=set)
    """The keys that were found or made through this object: a run's own, which it does not remove to make room for more of its own."""

    def holds(self, shapes: Sequence[Shape]) -> bool:
        """Whether such pictures fit at all."""
        return len(shapes) > 0 and bytes_of(shapes) <= self.limit

    def find(self, key: str, shapes: Sequence[Shape]) -> Pictures | None:
        """The pictures of a key, or None, also where the file cannot be read. A damaged file is removed."""
        path = self.folder / key
        try:
            pictures = Pictures(path, shapes)
        except ValueError:
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        except OSError:
            return None
        with contextlib.suppress(OSError):  # gone in the meantime, or somebody else's
            os.utime(path)
        self.used.add(key)
        return pictures

    def make(
        self, key: str, shapes: Sequence[Shape], pixels: Callable[[], Iterator[NDArray[np.uint8]]],
    ) -> Iterator[int]:
        """Make the file of a key from its pictures, in order, unless another job makes it first; yields how many are written.

        Raises:
            OSError: the disk is full, or the cache is with what is in use (ENOSPC). Nothing is left of the file.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self._lock(key), thread_local=False):
            if (self.folder / key).exists():
                return
            with write_atomically(self.folder / key) as unfinished:
                self._reserve(key, unfinished, bytes_of(shapes))
                sums = []
                with unfinished.open("r+b") as file:
                    for picture, shape in zip(pixels(), shapes, strict=True):
                        if picture.shape != shape:
                            raise ValueError(f"Expected a picture of shape {shape}. Received: {picture.shape}.")
                        whole = picture.tobytes()
                        # Written, not mapped: on a full disk a write fails, and a mapping kills the process.
                        file.write(whole)
                        sums.append(zlib.crc32(whole))
                        yield len(sums)
                    file.write(np.array(sums, dtype="<u4").tobytes())
        self.used.add(key)

    def _lock(self, key: str) -> Path:
        # One of 256, so that they need not be removed, which no one can do safely while another may be about to take one.
        return self.folder / f"{key[:2]}.lock"

    def _reserve(self, key: str, unfinished: Path, size: int) -> None:
        """Make room for a file and give it its size at once, so that whoever makes room next counts it."""
        with FileLock(self.folder / "lock"):
            self._sweep(key)
            files = sorted(self._files())
            held = sum(length for _, length, _ in files)
            for _, length, path in files:
                if held + size > self.limit and path.name not in self.used and not _is_unfinished(path):
                    held -= length
                    path.unlink(missing_ok=True)
            if held + size > self.limit:
                raise OSError(errno.ENOSPC, f"Expected {size} bytes free of the cache's {self.limit}. Received: {held} in use")
            with unfinished.open("xb") as file:
                file.truncate(size)

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """When each file was last used, its bytes, and where it is; others finish theirs, and rename them, meanwhile."""
        for path in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if not path.name.endswith("lock"):
                    yield path.stat().st_mtime, path.stat().st_size, path

    def _sweep(self, key: str) -> None:
        """Remove what killed jobs left unfinished. Who is still at work holds the lock; that of `key` is held here."""
        for unfinished in filter(_is_unfinished, list(self.folder.iterdir())):
            if self._lock(unfinished.name) == self._lock(key):
                unfinished.unlink(missing_ok=True)
                continue
            with contextlib.suppress(Timeout), FileLock(self._lock(unfinished.name), timeout=0):
                unfinished.unlink(missing_ok=True)


def bytes_of(shapes: Sequence[Shape]) -> int:
    """The size of the file of pictures of these shapes."""
    return sum(height * width * channels for height, width, channels in shapes) + 4 * len(shapes)


def _is_unfinished(path: Path) -> bool:
    return ".tmp-" in path.name
