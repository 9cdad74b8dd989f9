"""main: the process in which the bytes of one uploaded picture after another become pixels (`python -m service.decoder`).

It shares a socket and a piece of memory with the service (service/decoding.py):

    asked     JSON of how many bytes of the memory are the picture, and its Preprocess
    answered  the pixels in the memory and {}, or {"code", "message", "remedy"[, "limit"]} of the refusal

Before the first question it answers {} once: it is up. It imports Pillow and numpy and little else.
"""

import contextlib
import ctypes
import json
import mmap
import resource
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np

from catdog.errors import BadImage, CatdogError
from catdog.images import Preprocess

MEMORY_BYTES = 2**30
"""What one picture may take on top of the idle process: 50 million pixels as RGBA, twice, and what Pillow needs between."""
KEPT_BYTES = 16 * 2**20
"""What one picture has freed is kept for the next one, instead of being given back to the kernel and faulted in anew page by page: a
tenth of the time that a photograph of 12 megapixels takes. A photograph takes less than this, and what larger ones take is given back."""
MESSAGE_BYTES = 2**16
"""More than any question or answer has."""
_TEXT_LENGTH = 2000
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def main() -> None:
    """Answer until the service hangs up. Arguments: the file descriptors of socket and memory."""
    service = socket.socket(fileno=int(sys.argv[1]))
    memory = mmap.mmap(int(sys.argv[2]), 0)
    _limit()
    _keep_memory()
    service.send(b"{}")
    while question := service.recv(MESSAGE_BYTES):
        asked = json.loads(question)
        service.send(json.dumps(_answer(memory, asked["length"], Preprocess.from_dict(asked["preprocess"]))).encode())


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # What is mapped already differs with the number of cores, because numpy sets up its threads.
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY_BYTES,) * 2)


def _keep_memory() -> None:
    with contextlib.suppress(AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, KEPT_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)


def _answer(memory: mmap.mmap, length: int, preprocess: Preprocess) -> dict[str, Any]:
    try:
        pixels = preprocess.pixels_of(memory[:length])
    except CatdogError as error:
        return _refusal(error)
    except MemoryError:
        return _refusal(BadImage(f"Expected a picture that decodes in {MEMORY_BYTES} bytes. Received: one that does not."))
    np.frombuffer(memory, np.uint8, pixels.size)[:] = pixels.ravel()
    return {}


def _refusal(error: CatdogError) -> dict[str, Any]:
    refusal = {"code": error.code, "message": error.message[:_TEXT_LENGTH], "remedy": error.remedy}
    return refusal | ({"limit": error.limit} if hasattr(error, "limit") else {})


if __name__ == "__main__":
    main()
