"""Decoders: uploaded pictures become pixels in processes that may die. A hostile file costs only itself.

One process per core (service/decoder.py) that has a limit on its memory and is killed when a picture takes too long. The picture's bytes
and its pixels lie in memory that both share, and what is said about them is JSON: nothing is unpickled that a decoder has written, and
no thread stands between the event loop and a decoder. Not limited: which system calls it makes. Give the service a container or a user
of its own where strangers may upload.
"""

import asyncio
import contextlib
import fcntl
import json
import logging
import mmap
import os
import socket
import sys
import time
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from catdog import device, process
from catdog.errors import BadImage, CatdogError, TooLarge, UnsupportedType
from catdog.images import MAX_IMAGE_SIZE, Preprocess
from catdog.settings import Settings
from service.decoder import MESSAGE_BYTES
from service.metrics import DECODE, QUEUE

log = logging.getLogger("catdog.service.decoding")

MAX_DECODERS = 16
"""Unless CATDOG_DECODERS says another number: each takes some 40 MB, and the network does not answer faster than so many decode."""
START_SECONDS = 60.0
"""Until a decoder must be up, which takes less than one on an idle machine."""
PAUSE_SECONDS = 1.0
"""Before a decoder is started again that could not be, or ended before it was up: this machine lacks something, and trying at once would
only burn it."""
COMMAND = (sys.executable, "-m", "service.decoder")
_REFUSALS = {kind.code: kind for kind in (BadImage, TooLarge, UnsupportedType)}


class Decoders:
    """The decoding processes. Everything happens in the event loop that start() is called in."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._living: set[_Decoder] = set()
        self._idle: asyncio.Queue[_Decoder] = asyncio.Queue()
        self._fails = False  # the last thing heard of any was that it does not start
        self._closing = False

    def start(self) -> None:
        """Start the processes, before the first picture asks for them.

        The kernel ends them with the thread that calls this: call it from one that lives as long as the service.
        """
        for _ in range(self._settings.decoders or min(device.cores(), MAX_DECODERS)):
            self._begin()

    @property
    def is_able(self) -> bool:
        """Whether a process is there that decodes, or nothing yet against one that has been started."""
        return not self._fails or any(decoder.was_up for decoder in self._living)

    def close(self) -> None:
        """End the processes."""
        self._closing = True
        for decoder in [*self._living]:
            decoder.end()

    async def decode(self, data: bytes | memoryview, preprocess: Preprocess) -> NDArray[np.uint8]:
        """Turn the bytes of a picture into pixels (S, S, 3) uint8. Who is cancelled while waiting for a decoder leaves it to the next.

        Raises:
            BadImage, UnsupportedType, TooLarge: as images.read; BadImage also when the picture took too long or ended its process.
        """
        began, asked = time.perf_counter(), None
        while asked is None:
            asked = (await self._idle.get()).ask(data, preprocess)
        QUEUE.observe(time.perf_counter() - began)
        with DECODE.time():  # what is begun is done, also for who has left: its answer must not be taken for the next one's
            return await asked

    def _begin(self) -> None:
        if self._closing:
            return
        try:
            self._living.add(_Decoder(self._settings, self._free, self._died))
        except OSError as error:  # no process, descriptor or memory is to be had at this moment
            self._begin_later(repr(error))

    def _begin_later(self, reason: str) -> None:
        self._fails = True
        log.error("event=decoder_does_not_start reason=%s", reason)
        asyncio.get_running_loop().call_later(PAUSE_SECONDS, self._begin)

    def _free(self, decoder: "_Decoder") -> None:
        self._fails = False
        self._idle.put_nowait(decoder)

    def _died(self, decoder: "_Decoder") -> None:
        self._living.discard(decoder)
        if decoder.was_up or self._closing:
            self._begin()
        else:
            self._begin_later("ended before it was up")


@lru_cache
def _written(preprocess: Preprocess) -> bytes:
    """As JSON: once for a model, not for each of its pictures."""
    return json.dumps(preprocess.to_dict()).encode()


class _Decoder:
    """One decoding process, from its start to its death."""

    def __init__(self, settings: Settings, on_idle: "Callable[[_Decoder], None]", on_death: "Callable[[_Decoder], None]") -> None:
        self._on_idle, self._on_death = on_idle, on_death
        self._seconds = settings.decode_seconds
        self._asked: asyncio.Future[NDArray[np.uint8]] | None = None
        self._refusal = BadImage("Expected a picture that can be decoded. Received: one that ended its decoder.")
        self.was_up = False
        size = max(settings.max_image_bytes, 3 * MAX_IMAGE_SIZE**2)
        with contextlib.ExitStack() as unfinished:
            self._line, theirs = (unfinished.enter_context(end) for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            shared = os.memfd_create("catdog-picture", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            with os.fdopen(shared, "rb"):
                os.ftruncate(shared, size)
                # Else a decoder in a stranger's hands could shrink it, and the service would die of touching what is gone.
                fcntl.fcntl(shared, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
                self._memory = unfinished.enter_context(mmap.mmap(shared, size))
                descriptors = (theirs.fileno(), shared)
                self._process = process.start(
                    [*COMMAND, *map(str, descriptors)], environment=settings.run_environment(), pass_fds=descriptors,
                )
            self._line.setblocking(False)
            asyncio.get_running_loop().add_reader(self._line.fileno(), self._hear)
            self._timer = self._patience(START_SECONDS)
            unfinished.pop_all()
        theirs.close()

    def ask(self, data: bytes | memoryview, preprocess: Preprocess) -> "asyncio.Future[NDArray[np.uint8]] | None":
        """Begin with a picture; only when idle. None: it has died meanwhile, of something else."""
        self._memory[:len(data)] = data
        try:
            self._line.send(b'{"length": %d, "preprocess": %s}' % (len(data), _written(preprocess)))
        except OSError:
            return None
        self._asked, self._side = asyncio.get_running_loop().create_future(), preprocess.image_size
        self._timer = self._patience(self._seconds)
        return self._asked

    def end(self) -> None:
        """Kill the process, if it still lives, and let the next one begin; the picture under way is refused."""
        asyncio.get_running_loop().remove_reader(self._line.fileno())
        self._line.close()
        process.stop(self._process, grace_seconds=0)
        self._answer(self._refusal)
        self._on_death(self)

    def _patience(self, seconds: float) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(seconds, self._lose_patience)

    def _lose_patience(self) -> None:
        self._refusal = BadImage(f"Expected a picture that decodes in {self._seconds:g} seconds. Received: one that does not.")
        self.end()

    def _hear(self) -> None:
        try:
            said = json.loads(self._line.recv(MESSAGE_BYTES))
            answer = _REFUSALS[said.pop("code")](said.pop("message"), **said) if said else None
        except (OSError, ValueError, LookupError, TypeError, AttributeError):  # nothing more, or not what a decoder says
            return self.end()
        if self.was_up and self._asked is None:  # it speaks unasked: what it says next would be another's answer
            return self.end()
        self.was_up = True
        self._answer(answer)
        return self._on_idle(self)

    def _answer(self, refusal: CatdogError | None) -> None:
        """Settle what was asked, unless nothing was."""
        self._timer.cancel()
        asked, self._asked = self._asked, None
        if asked is None or asked.done():  # nobody has asked, or who has left
            return
        if refusal is not None:
            asked.set_exception(refusal)
        else:
            pixels = np.frombuffer(self._memory, np.uint8, 3 * self._side**2).reshape(self._side, self._side, 3)
            asked.set_result(pixels.copy())
