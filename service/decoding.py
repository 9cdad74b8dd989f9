"""Decoders: uploaded pictures become pixels in processes that may die. A hostile file costs only itself.

One spawned process per core; it imports Pillow and numpy and little else, has a limit on its memory, and is killed when a picture takes too
long. Not limited: which system calls it makes. Give the service a container or a user of its own where strangers may upload.
"""

import asyncio
import multiprocessing
import os
import resource
import signal
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pebble import ProcessExpired, ProcessPool

from catdog import process
from catdog.errors import BadImage, CatdogError, Unavailable
from catdog.images import Preprocess, decode

if TYPE_CHECKING:
    from catdog.settings import Settings  # not for the decoding processes: it brings pydantic

MEMORY_BYTES = 2**30
"""What one picture may take on top of the idle process: 50 million pixels as RGBA, twice, and what Pillow needs between."""
MAX_WAITING = 256
"""So many pictures may wait for a decoder; the next is turned away at once rather than answered after a minute."""
STALL_SECONDS = 30.0
"""A pool that answers nothing for so long beyond a picture's own time is made anew: a process was killed while it held the pool's lock."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    """One of catdog's errors on its way between processes: as an exception, its keyword-only arguments would not survive pickling."""

    kind: type[CatdogError]
    attributes: dict[str, Any]

    def error(self) -> CatdogError:
        error = self.kind.__new__(self.kind, self.attributes["message"])
        error.__dict__.update(self.attributes)
        return error


MAX_DECODERS = 16
"""Unless CATDOG_DECODERS says another number: each takes some 40 MB, and the network does not answer faster than so many decode."""


class Decoders:
    """The pool of decoding processes."""

    def __init__(self, settings: "Settings") -> None:
        from catdog import device  # not for the decoding processes: it brings pydantic

        self._processes = settings.decoders or min(device.cores(), MAX_DECODERS)
        self._timeout_seconds = settings.decode_seconds
        self._waiting = 0
        self._pool: ProcessPool | None = None

    def start(self) -> ProcessPool:
        """Start the processes, before the first picture asks for them.

        The kernel ends them with the thread that calls this: call it from one that lives as long as the service.
        """
        self._pool = ProcessPool(
            self._processes, initializer=_begin, initargs=(os.getpid(),), context=multiprocessing.get_context("spawn"),
        )
        for _ in range(self._processes):
            self._pool.schedule(_nothing)  # so that they are up when the first picture comes
        return self._pool

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.stop()  # type: ignore[no-untyped-call]
            self._pool.join()
            self._pool = None

    async def decode(self, data: bytes, preprocess: Preprocess) -> NDArray[np.uint8]:
        """Turn the bytes of a picture into pixels (S, S, 3) uint8.

        Raises:
            BadImage, UnsupportedType, TooLarge: as images.decode; BadImage also when the picture took too long or ended its process.
            Unavailable: too many pictures wait.
        """
        if self._waiting >= MAX_WAITING:
            raise Unavailable(f"Expected at most {MAX_WAITING} pictures that wait to be decoded. Received: one more.")
        self._waiting += 1
        try:
            answer = await self._ask(data, preprocess)
        except TimeoutError as error:
            raise BadImage(f"Expected a picture that decodes in {self._timeout_seconds:g} seconds. Received: one that does not.") from error
        except ProcessExpired as error:
            raise BadImage("Expected a picture that can be decoded. Received: one that ended its decoder.") from error
        finally:
            self._waiting -= 1
        if isinstance(answer, _Refusal):
            raise answer.error()
        return answer

    async def _ask(self, data: bytes, preprocess: Preprocess) -> "NDArray[np.uint8] | _Refusal":
        for _ in range(2):
            pool = self._pool or self.start()
            try:
                future = asyncio.wrap_future(pool.schedule(_decode, args=(data, preprocess), timeout=self._timeout_seconds))
                await asyncio.wait({future}, timeout=self._timeout_seconds + STALL_SECONDS)
                if future.done():
                    answer: NDArray[np.uint8] | _Refusal = future.result()
                    return answer
                future.cancel()
            except (BrokenProcessPool, RuntimeError) as error:
                # Pebble gives up when a process dies while all are idle, for instance at the hand of the kernel's memory killer.
                if pool.active and not isinstance(error, BrokenProcessPool):
                    raise
            if self._pool is pool:
                self.close()
        raise Unavailable("Expected decoders that run. Received: none.")


def _begin(parent: int) -> None:
    """Set up a decoding process."""
    process.die_with_parent(parent)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # pebble's handler is Python and would wait for the C code that hangs
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # What is mapped already differs with the number of cores, because numpy sets up its threads.
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY_BYTES,) * 2)


def _nothing() -> None:
    """Be there."""


def _decode(data: bytes, preprocess: Preprocess) -> "NDArray[np.uint8] | _Refusal":
    try:
        return preprocess.pixels(decode(data))
    except CatdogError as error:
        return _Refusal(type(error), vars(error))
    except MemoryError:
        return _Refusal(BadImage, vars(BadImage(f"Expected a picture that decodes in {MEMORY_BYTES} bytes. Received: one that does not.")))
