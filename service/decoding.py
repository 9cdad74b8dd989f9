"""Decoders: uploaded pictures become pixels in processes that may die. A hostile file costs only itself.

One process per core (service/decoder.py) that has a limit on its memory and is killed when a picture takes too long. The picture's bytes
and its pixels lie in memory that both share, and what is said about them is JSON: nothing is unpickled that a decoder has written, and
no thread stands between the event loop and a decoder. A decoder may have the next picture before it has answered the last one; if it
dies of that, the next one goes to another. Not limited: which system calls it makes. Give the service a container or a user of its own
where strangers may upload.
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
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from catdog import device, process
from catdog.errors import BadImage, TooLarge, UnsupportedType
from catdog.images import MAX_IMAGE_SIZE, Preprocess
from catdog.settings import Settings
from service.decoder import MESSAGE_BYTES
from service.metrics import DECODE, QUEUE

log = logging.getLogger("catdog.service.decoding")

MAX_DECODERS = 16
"""Unless CATDOG_DECODERS says another number: each takes some 40 MB, and the network does not answer faster than so many decode."""
PICTURES = 2
"""A decoder has so many at most: the one that it decodes and the next, with which it goes on while the event loop waits for a core."""
START_SECONDS = 60.0
"""Until a decoder must be up. It takes one second on an idle machine."""
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
        self._places = asyncio.Semaphore(0)
        """For a picture, with any of them; those with one that has died stay until somebody takes them and finds it out."""
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

    async def decode(self, data: bytes | memoryview, preprocess: Preprocess, *, together: bool = False) -> NDArray[np.uint8]:
        """Turn the bytes of a picture into pixels (S, S, 3) uint8. Who is cancelled while waiting for a decoder leaves it to the next.

        `together`: rather behind another picture than in a decoder of its own, which would have to wait for a core. A decoder that goes on
        with a second picture takes a tenth less time for it than one that is woken.

        Raises:
            BadImage, UnsupportedType, TooLarge: as images.read; BadImage also when the picture took too long or ended its process.
        """
        while True:
            began = time.perf_counter()
            await self._places.acquire()
            QUEUE.observe(time.perf_counter() - began)
            with_room = [decoder for decoder in self._living if decoder.has_room]
            if not with_room:  # the place was with one that has died
                continue
            decoder = (max if together else min)(with_room, key=lambda decoder: decoder.under_way)
            with DECODE.time(), contextlib.suppress(_DecoderDied):
                # What is begun is done, else the answer to this picture would be taken for the next one's.
                return await asyncio.shield(decoder.ask(data, preprocess))

    def _begin(self) -> None:
        if self._closing:
            return
        try:
            self._living.add(_Decoder(self._settings, self._make_room, self._died))
        except OSError as error:  # no process, descriptor or memory is to be had at this moment
            self._begin_later(repr(error))

    def _begin_later(self, reason: str) -> None:
        self._fails = True
        log.error("event=decoder_does_not_start reason=%s", reason)
        asyncio.get_running_loop().call_later(PAUSE_SECONDS, self._begin)

    def _make_room(self, pictures: int) -> None:
        self._fails = False
        for _ in range(pictures):
            self._places.release()

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


class _DecoderDied(Exception):
    """Before it began with the picture: another will do it."""


@dataclass(frozen=True, slots=True)
class _Asked:
    offset: int
    """Of its bytes, and then of its pixels, in the memory."""
    side: int
    answer: asyncio.Future[NDArray[np.uint8]]


class _Decoder:
    """One decoding process, from its start to its death."""

    def __init__(self, settings: Settings, on_room: Callable[[int], None], on_death: "Callable[[_Decoder], None]") -> None:
        """`on_room` is told for how many more pictures it has room."""
        self._on_room, self._on_death = on_room, on_death
        self._seconds = settings.decode_seconds
        self._asked: deque[_Asked] = deque()  # the first is being decoded
        self._refusal = BadImage("Expected a picture that can be decoded. Received: one that ended its decoder.")
        self.was_up = False
        size = max(settings.max_image_bytes, 3 * MAX_IMAGE_SIZE**2)
        self._free = [number * size for number in range(PICTURES)]
        with contextlib.ExitStack() as unfinished:
            self._line, theirs = (unfinished.enter_context(end) for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            shared = os.memfd_create("catdog-pictures", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            with os.fdopen(shared, "rb"):
                os.ftruncate(shared, PICTURES * size)
                # Else a decoder in a stranger's hands could shrink it, and the service would die of touching what is gone.
                fcntl.fcntl(shared, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
                self._memory = unfinished.enter_context(mmap.mmap(shared, PICTURES * size))
                descriptors = (theirs.fileno(), shared)
                self._process = process.start(
                    [*COMMAND, *map(str, descriptors)], environment=settings.run_environment(), pass_fds=descriptors,
                )
            self._line.setblocking(False)
            asyncio.get_running_loop().add_reader(self._line.fileno(), self._hear)
            self._timer = self._patience(START_SECONDS)
            unfinished.pop_all()
        theirs.close()

    @property
    def has_room(self) -> bool:
        """Whether it can be asked."""
        return self.was_up and bool(self._free)

    @property
    def under_way(self) -> int:
        """How many pictures it has."""
        return len(self._asked)

    def ask(self, data: bytes | memoryview, preprocess: Preprocess) -> asyncio.Future[NDArray[np.uint8]]:
        """Give it a picture; only when it has room.

        Raises:
            _DecoderDied: meanwhile, of something else; of the future: of the picture before this one.
        """
        asked = _Asked(self._free.pop(), preprocess.image_size, asyncio.get_running_loop().create_future())
        self._memory[asked.offset:asked.offset + len(data)] = data
        try:
            self._line.send(b'{"offset": %d, "length": %d, "preprocess": %s}' % (asked.offset, len(data), _written(preprocess)))
        except OSError:
            self.end()
            raise _DecoderDied from None
        self._asked.append(asked)
        if len(self._asked) == 1:
            self._timer = self._patience(self._seconds)
        return asked.answer

    def end(self) -> None:
        """Kill the process, if it still lives, and let the next one begin; the picture under way is refused."""
        self._timer.cancel()
        asyncio.get_running_loop().remove_reader(self._line.fileno())
        self._line.close()
        process.stop(self._process, grace_seconds=0)
        if self._asked:
            self._settle(self._refusal)
        while self._asked:
            self._settle(_DecoderDied())
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
        if self.was_up and not self._asked:  # it speaks unasked: what it says next would be another's answer
            return self.end()
        self._timer.cancel()
        if self.was_up:
            self._settle(answer)
        if self._asked:
            self._timer = self._patience(self._seconds)
        self._on_room(1 if self.was_up else PICTURES)
        self.was_up = True
        return None

    def _settle(self, error: Exception | None) -> None:
        """Answer the first of what was asked with its pixels, or an error."""
        asked = self._asked.popleft()
        self._free.append(asked.offset)
        if asked.answer.done():  # nobody waits for it any more
            return
        if error is not None:
            asked.answer.set_exception(error)
        else:
            pixels = np.frombuffer(self._memory, np.uint8, 3 * asked.side**2, asked.offset).reshape(asked.side, asked.side, 3)
            asked.answer.set_result(pixels.copy())
