"""Admission: how many pictures are under way, and who is let in. Too many are turned away at once, and none waits for ever."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from catdog.errors import Unavailable
from service.metrics import INSIDE, REFUSED


class Admission:
    """The places of pictures that are decoded, computed, or wait for that. Lives in the event loop."""

    def __init__(self, places: int, *, seconds: float) -> None:
        """So many `places` there are, and after `seconds` a picture gives its own up."""
        self._places = places
        self._seconds = seconds
        self._inside = 0

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
