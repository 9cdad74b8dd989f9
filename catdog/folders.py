"""Folder: a folder of this machine, read as an archive is."""

import os
import re
from pathlib import Path

from catdog.errors import BadDataset, BadImage, TooLarge
from catdog.plans import Refused
from catdog.settings import Settings

_SURROGATE = re.compile("[\ud800-\udfff]")


class Folder:
    """The regular files below a folder. Links that lead out of it or to folders, and what is no regular file, are listed and not read."""

    def __init__(self, path: Path, settings: Settings) -> None:
        """Look which files there are.

        Raises:
            BadDataset: no folder. TooLarge: more files than max_archive_files.
        """
        if not path.is_dir():
            raise BadDataset(f"Expected a folder of pictures. Received: {path}, which is none.", remedy="Look at the path.")
        self._root = path.resolve()
        self._limit = settings.max_image_bytes
        self.names: list[str] = []
        """Relative to the folder, with / between the parts."""
        self.strange: list[Refused] = []
        for folder, folders, files in os.walk(self._root, onerror=self._unreadable):
            for path in (Path(folder, name) for name in (*folders, *files)):
                try:
                    if path.is_symlink() or not path.is_dir():
                        self._sort(path)
                except OSError as error:  # in a folder that may be listed and not entered
                    self._unreadable(error)
        if len(self.names) > settings.max_archive_files:
            limit = settings.max_archive_files
            raise TooLarge(f"Expected a folder of at most {limit} files. Received: {len(self.names)}.", limit=limit)

    def _sort(self, file: Path) -> None:
        name = file.relative_to(self._root).as_posix()
        if _SURROGATE.search(name):  # what os.fsdecode makes of bytes that are no text
            self.strange.append(Refused(ascii(name)[1:-1], "not_regular", "its name is not UTF-8: rename it"))
        elif file.is_dir():
            self.strange.append(Refused(name, "not_regular", "a link to a folder, which is not followed"))
        elif file.is_file() and file.resolve().is_relative_to(self._root):
            self.names.append(name)
        else:
            self.strange.append(Refused(name, "not_regular", "not a regular file inside the folder"))

    def _unreadable(self, error: OSError) -> None:
        name = Path(os.fsdecode(error.filename)).relative_to(self._root).as_posix()
        self.strange.append(Refused(ascii(name)[1:-1], "unreadable", f"it cannot be opened ({error.strerror})"))

    def read(self, name: str) -> bytes:
        """The bytes of one file.

        Raises:
            BadImage: it cannot be read. TooLarge: more than max_image_bytes.
        """
        try:
            size = (self._root / name).stat().st_size
            if size > self._limit:
                raise TooLarge(f"Expected files of at most {self._limit} bytes. Received: {name} with {size}.", limit=self._limit)
            return (self._root / name).read_bytes()
        except OSError as error:
            raise BadImage(f"Expected a file that can be read. Received: {name} ({error.strerror}).") from error

    def modified(self, name: str) -> int:
        """When the file was last changed, in unix seconds."""
        return int((self._root / name).stat().st_mtime)
