"""download, size_so_far: a public file from the network to a path, going on where an earlier try stopped."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from catdog.errors import TooLarge, Unreachable
from catdog.files import sha256_of, write_atomically

if TYPE_CHECKING:
    import httpx

CONNECT_SECONDS = 5.0
READ_SECONDS = 20.0
"""The longest silence of the server."""

Report = Callable[[int, int], None] | None
"""Called with (bytes so far, bytes in all; 0: nobody knows)."""


def download(
    url: str, path: Path, *, sha256: str | None = None, limit: int | None = None, progress: Report = None,
) -> Path:
    """Fetch `url` to `path`, which appears when it is whole; what there is so far lies in `<path>.part`.

    `sha256` is what the hash of the file begins with, in hex. A part is continued where that will tell in the end, or where the server
    confirms that the file is still the same; else it is begun anew. A `path` that is there with the right hash is not fetched again.
    `progress` is told (bytes so far, bytes in all; 0 if the server does not say).

    Raises:
        Unreachable: no network, a refusal, a connection cut (call again to go on), or not the expected file.
        TooLarge: more than `limit` bytes.
    """
    import httpx  # takes a while, and most who import this file never download

    if path.exists() and (sha256 is None or sha256_of(path).startswith(sha256)):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part, tag = _part_of(path), path.with_name(path.name + ".etag")
    headers = {"Accept-Encoding": "identity"}  # a byte range of something compressed on the way means nothing
    if part.exists() and (tag.exists() or sha256 is not None):
        headers |= {"Range": f"bytes={part.stat().st_size}-"} | ({"If-Range": tag.read_text()} if tag.exists() else {})
    timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
    try:
        with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=timeout) as response:
            if response.status_code == 416 and sha256 is not None:
                return _finish(part, tag, path, url=url, total=0, sha256=sha256)  # nothing is missing; the hash decides
            begin, total = _begin(response, part)
            if begin == 0:
                part.unlink(missing_ok=True)
                _remember(tag, response.headers.get("ETag", ""))
            _append(part, response.iter_raw(), total=total, limit=limit, progress=progress)
    except TooLarge:
        for unwanted in (part, tag):
            unwanted.unlink(missing_ok=True)
        raise
    except httpx.HTTPError as error:
        raise Unreachable(f"Expected {url}. Received: {type(error).__name__}: {error}.") from error
    return _finish(part, tag, path, url=url, total=total, sha256=sha256)


def size_so_far(path: Path) -> int:
    """Bytes of `path` that a download has brought by now and would go on from."""
    part = _part_of(path)
    return part.stat().st_size if part.exists() else 0


def _part_of(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _begin(response: "httpx.Response", part: Path) -> tuple[int, int]:
    """At which byte the body begins, and how many the file has (0: unknown)."""
    if response.status_code == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if found and int(found[1]) == part.stat().st_size:
            return int(found[1]), int(found[2])
    if response.status_code == 416:
        # The part is no beginning of what is there now; a next call starts anew.
        part.unlink()
    if response.status_code != 200:
        raise Unreachable(f"Expected {response.url} with status 200. Received: {response.status_code}.", remedy="Try again later.")
    return 0, int(response.headers.get("Content-Length", 0))


def _remember(tag: Path, etag: str) -> None:
    """Keep a strong ETag for If-Range; a weak one promises no equal bytes."""
    if etag.startswith('"'):
        with write_atomically(tag) as unfinished:
            unfinished.write_text(etag)
    else:
        tag.unlink(missing_ok=True)


def _append(
    part: Path, blocks: Iterator[bytes], *, total: int, limit: int | None, progress: Report,
) -> None:
    with part.open("ab") as file:
        for block in blocks:
            file.write(block)
            if limit is not None and file.tell() > limit:
                raise TooLarge(f"Expected a download of at most {limit} bytes. Received: more.", limit=limit)
            if progress is not None:
                progress(file.tell(), total)


def _finish(part: Path, tag: Path, path: Path, *, url: str, total: int, sha256: str | None) -> Path:
    size = part.stat().st_size
    if total and size < total:
        raise Unreachable(f"Expected {total} bytes of {url}. Received: {size}; the connection ended.", remedy="Call again to go on.")
    received = sha256_of(part)
    if (total and size > total) or (sha256 is not None and not received.startswith(sha256)):
        part.unlink()
        tag.unlink(missing_ok=True)
        message = f"Expected {url} with a sha256 that begins with {sha256}. Received: {size} bytes with {received}."
        raise Unreachable(message, remedy="Try again; if it stays so, the server or a proxy in between sends something else.")
    with write_atomically(path) as unfinished:
        part.rename(unfinished)
    tag.unlink(missing_ok=True)
    return path
