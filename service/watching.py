"""until, Wait: a long poll, until something has changed, its time is over, its client has left, or the service stops. leaving: work that
ends with its client."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, TypeVar

from fastapi import Query
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from service.metrics import REFUSED
from service.parts import Parts

READ_SECONDS = 0.25
LONGEST_WAIT_SECONDS = 60

Wait = Annotated[float, Query(ge=0, le=LONGEST_WAIT_SECONDS, description="Seconds to wait for a change before answering.")]

T = TypeVar("T")


async def until(done: Callable[[T], bool], read: Callable[[], T], *, seconds: float, request: Request, parts: Parts) -> T:
    """Read (in a thread) until what was read is done; return what was read last."""
    end = time.monotonic() + seconds
    value = await run_in_threadpool(read)
    while not done(value) and not parts.closing.is_set() and not request.state.left.done():
        left = end - time.monotonic()
        if left <= 0:
            break
        await asyncio.sleep(min(READ_SECONDS, left))
        value = await run_in_threadpool(read)
    return value


@contextmanager
def leaving(request: Request) -> Iterator[None]:
    """Cancel what is inside when the client leaves.

    Raises:
        ClientDisconnect: it has left.
    """
    left: asyncio.Future[None] = request.state.left
    working = asyncio.current_task()

    def leave(_left: asyncio.Future[None]) -> None:
        if working is not None:
            working.cancel()

    left.add_done_callback(leave)
    try:
        yield
    except asyncio.CancelledError:
        if not left.done():
            raise
        if working is not None:
            working.uncancel()
        REFUSED.labels("client_left").inc()
        raise ClientDisconnect from None
    finally:
        left.remove_done_callback(leave)
        working = None  # the call may be on its way already
