"""read, inherit: the epochs of a run, as metrics.jsonl in its folder has them, one line each. Read without torch."""

import json
import os
from pathlib import Path
from typing import Any, NoReturn

from catdog.files import write_atomically
from catdog.progress import MAX_LINE_BYTES

MAX_BYTES = 32 * 2**20
"""Of a longer file only the end is read: a thousand epochs of a thousand labels have less."""


def read(run_folder: Path) -> list[dict[str, Any]]:
    """Every finished epoch in order, each with the fields of its Progress; none before the first has ended.

    An attempt that went on from an older checkpoint has undone what was said of later epochs: the newest line counts. A line that is
    broken, because its writer was killed or its disk was full, is left out.
    """
    found: dict[int, dict[str, Any]] = {}
    for line in _end(run_folder / "metrics.jsonl").split(b"\n"):
        if epoch := _parsed(line):
            number = epoch["epoch"]
            found = {earlier: said for earlier, said in found.items() if earlier < number} | {number: epoch}
    return list(found.values())


def inherit(old: Path, new: Path, *, upto: int) -> None:
    """Begin the metrics.jsonl of the run folder `new` with the epochs of `old` up to that one."""
    with write_atomically(new / "metrics.jsonl") as unfinished:
        unfinished.write_text("".join(json.dumps(epoch) + "\n" for epoch in read(old) if epoch["epoch"] <= upto))


def _end(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - MAX_BYTES))
            return file.read(MAX_BYTES)
    except FileNotFoundError:
        return b""


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The epoch that a line tells of. Behind the half line of an attempt that was killed stands the first of the next attempt."""
    whole = line[max(0, line.rfind(b'{"kind"')) :]
    if len(whole) > MAX_LINE_BYTES:
        return None
    try:
        fields = json.loads(whole, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    is_epoch = isinstance(fields, dict) and fields.get("kind") == "epoch" and type(fields.get("epoch")) is int
    return fields if is_epoch else None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"Expected JSON. Received: {constant}.")
