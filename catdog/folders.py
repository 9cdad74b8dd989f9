"""Folder: a folder of this machine, read as an archive is."""

import re
from pathlib import Path

from catdog.errors import BadDataset, TooLarge
from catdog.plans import Refused
from catdog.settings import Settings

_SURROGATE = re.compile("[\ud800-\udfff]")


class Folder:
    """The regular files below a folder. Links that lead out of it, and what is no regular file, are listed and not read."""

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
        for file in self._root.rglob("*"):
            if file.is_dir():
                continue
            name = file.relative_to(self._root).as_posix()
            if _SURROGATE.search(name):  # what os.fsdecode makes of bytes that are no text
                self.strange.append(Refused(ascii(name)[1:-1], "not_regular", "its name is not UTF-8: rename it"))
            elif file.is_file() and file.resolve().is_relative_to(self._root):
                self.names.append(name)
            else:
                self.strange.append(Refused(name, "not_regular", "not a regular file inside the folder"))
        if len(self.names) > settings.max_archive_files:
            limit = settings.max_archive_files
            raise TooLarge(f"Expected a folder of at most {limit} files. Received: {len(self.names)}.", limit=limit)

    def read(self, name: str) -> bytes:
        """The bytes of one file.

        Raises:
            TooLarge: more than max_image_bytes.
        """
        size = (self._root / name).stat().st_size
        if size > self._limit:
            raise TooLarge(f"Expected files of at most {self._limit} bytes. Received: {name} with {size}.", limit=self._limit)
        return (self._root / name).read_bytes()

    def modified(self, name: str) -> int:
        """When the file was last changed, in unix seconds."""
        return int((self._root / name).stat().st_mtime)
