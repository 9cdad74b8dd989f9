"""write_atomically, link_or_copy, share_as_folder, sha256_of, sync_folder: files that are whole or not there, whatever is killed when."""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Give a name beside `path` to write to; on success make it durable and rename it into place, else remove it."""
    # Not by the pid: in containers that share a folder the processes have the same ones.
    unfinished = path.with_name(f"{path.name}.tmp-{secrets.token_hex(4)}")
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
        sync_folder(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def link_or_copy(source: Path, target: Path) -> None:
    """The same bytes under a second name, for files that are never written again; nothing where that name is taken."""
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except OSError:  # another file system, one without links, a file of somebody else, too many links
        with write_atomically(target) as unfinished:
            shutil.copyfile(source, unfinished)
            share_as_folder(unfinished)


def share_as_folder(path: Path) -> None:
    """Let those read and write a file who may do so in its folder: safetensors makes its files 0600, whatever the umask."""
    path.chmod(path.parent.stat().st_mode & 0o666)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: fsync of a file does not promise that its name survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
