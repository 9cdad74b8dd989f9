"""receive_archive: an uploaded zip from the network to its data set's folder, whole and durable or not at all."""

import os
import shutil
from io import FileIO
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from catdog import sources
from catdog.files import sync_folder
from catdog.plans import Labelling
from catdog.settings import Settings
from service.shelf import Shelf

BLOCK_BYTES = 2**20
"""Written at once, so that the event loop hands over to a thread once a mebibyte and not once a packet."""


async def receive_archive(request: Request, shelf: Shelf, *, settings: Settings, labelling: Labelling, seed: int) -> str:
    """Stream the raw body into a new data set's archive.zip and look at its names; return the data set's id.

    When this returns the upload is on disk and accepted; on any error, or when the client goes away, nothing of it remains.

    Raises:
        TooLarge, UnsupportedType, BadDataset: as sources.check_archive.
    """
    folder = await run_in_threadpool(shelf.reserve)
    unfinished = folder / "archive.zip.part"
    try:
        await _write(request, unfinished)
        await run_in_threadpool(sources.check_archive, unfinished, settings, labelling)
        await run_in_threadpool(_accept, shelf, folder, unfinished, labelling.model_dump() | {"seed": seed})
    except BaseException:
        # Also when the request is cancelled; not in a thread, because nothing may be awaited then.
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder.name


async def _write(request: Request, path: Path) -> None:
    block = bytearray()
    with path.open("xb", buffering=0) as file:
        async for chunk in request.stream():
            block += chunk
            if len(block) >= BLOCK_BYTES:
                await run_in_threadpool(_write_all, file, bytes(block))
                block.clear()
        await run_in_threadpool(_write_all, file, bytes(block))


def _write_all(file: FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view):]  # an unbuffered file may take less than it is given


def _accept(shelf: Shelf, folder: Path, unfinished: Path, wish: dict[str, Any]) -> None:
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    shelf.accept(folder, wish)
    unfinished.rename(folder / "archive.zip")
    sync_folder(folder)

