"""Lookout: an answer within a moment to a question that a database or a network folder may take long to answer."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

PATIENCE_SECONDS = 0.05
"""So long the answer of a look that is under way is waited for."""
STALE_SECONDS = 15.0
"""A look that has not come back for so long is an answer too: what it looks at does not work."""

T = TypeVar("T")


class Lookout(Generic[T]):
    """Looks in a thread of its own, so that it stands in no queue behind requests, and never twice at a time."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "lookout")
        self._look: asyncio.Future[T] | None = None
        self._seen: T | None = None
        self._at = 0.0

    async def see(self, look: Callable[[], T]) -> T | None:
        """What `look` returns now or, when that takes longer than PATIENCE_SECONDS, what it returned last; None when that is STALE."""
        if self._look is None or self._look.done():
            self._look = asyncio.get_running_loop().run_in_executor(self._thread, look)
            self._look.add_done_callback(self._note)
        await asyncio.wait({self._look}, timeout=PATIENCE_SECONDS)
        if self._look.done():
            return self._look.result()
        return self._seen if time.monotonic() - self._at < STALE_SECONDS else None

    def close(self) -> None:
        """Wait for no further look."""
        self._thread.shutdown(wait=False)

    def _note(self, look: "asyncio.Future[T]") -> None:
        if not look.cancelled() and look.exception() is None:
            self._seen, self._at = look.result(), time.monotonic()
