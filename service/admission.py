"""Admission: how many pictures and bytes are under way, and who is let in. Too many are turned away at once, and none waits for ever."""

import asyncio
import errno
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from catdog.errors import TooLarge, Unavailable
from service.metrics import INSIDE, RECEIVE, REFUSED

RECEIVE_SECONDS = 60.0
"""So long may a body take that room is held for: who sends nothing must not keep others out. (20 MiB at 3 Mbit/s.)"""


class Admission:
    """The places of pictures that are decoded, computed, or wait for that, and the room for their bytes. Lives in the event loop."""

    def __init__(self, places: int, *, seconds: float, room: int) -> None:
        """So many `places` there are, after `seconds` a picture gives its own up, and bodies have so many bytes of `room` together."""
        self._places = places
        self._seconds = seconds
        self._room = room
        self._inside = 0
        self._held = 0

    @property
    def is_alone(self) -> bool:
        """Whether the picture that is inside is the only one."""
        return self._inside == 1

    def check(self) -> None:
        """Refuse, if there is no place, before anything is read.

        Raises:
            Unavailable: all places are taken.
        """
        if self._inside >= self._places:
            REFUSED.labels("full").inc()
            raise Unavailable(f"Expected at most {self._places} pictures that wait for their answer. Received: one more.")

    @contextmanager
    def room(self, size: int) -> Iterator[None]:
        """Room for `size` bytes, from before they are received until they are answered.

        Raises:
            TooLarge: it is more than there is in all.
            Unavailable: others take too much of it, or the disk that forms are received on is full.
        """
        if size > self._room:
            raise TooLarge(f"Expected a request that takes at most {self._room} bytes, JSON as large as it becomes. Received: {size}.",
                           limit=self._room)
        if self._held + size > self._room:
            REFUSED.labels("full").inc()
            raise Unavailable(f"Expected requests under way that take at most {self._room} bytes together. Received: {size} more.")
        self._held += size
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            REFUSED.labels("disk").inc()
            raise Unavailable("Expected space on the disk that forms are received on (TMPDIR). Received: a full one.") from error
        finally:
            self._held -= size

    @asynccontextmanager
    async def receiving(self) -> AsyncIterator[None]:
        """While a body comes.

        Raises:
            Unavailable: it takes longer than RECEIVE_SECONDS.
        """
        began = time.perf_counter()
        try:
            async with asyncio.timeout(RECEIVE_SECONDS):
                yield
        except TimeoutError as error:
            REFUSED.labels("slow").inc()
            raise Unavailable(f"Expected the whole body within {RECEIVE_SECONDS:g} seconds. Received: a part of it.") from error
        RECEIVE.observe(time.perf_counter() - began)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """A place for one picture, as long as it has time.

        Raises:
            Unavailable: all places are taken, or no answer came in time; what waited is called off.
        """
        self.check()
        self._inside += 1
        INSIDE.inc()
        try:
            async with asyncio.timeout(self._seconds):
                yield
        except TimeoutError as error:
            REFUSED.labels("deadline").inc()
            raise Unavailable(f"Expected an answer within {self._seconds:g} seconds. Received: none; too much else is asked.") from error
        finally:
            self._inside -= 1
            INSIDE.dec()
