"""until, Wait: a long poll, until something has changed, its time is over, its client has left, or the service stops. leaving: work that
ends with its client."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
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
    while not done(value) and not parts.closing.is_set() and not await request.is_disconnected():
        left = end - time.monotonic()
        if left <= 0:
            break
        await asyncio.sleep(min(READ_SECONDS, left))
        value = await run_in_threadpool(read)
    return value


@asynccontextmanager
async def leaving(request: Request) -> AsyncIterator[None]:
    """Cancel what is inside when the client leaves. The body must have been read.

    Raises:
        ClientDisconnect: it has left.
    """
    working, left = asyncio.current_task(), False

    async def watch() -> None:
        nonlocal left
        while (await request.receive())["type"] != "http.disconnect":
            pass
        left = True
        if working is not None:
            working.cancel()

    watching = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if not left:
            raise
        if working is not None:
            working.uncancel()
        REFUSED.labels("client_left").inc()
        raise ClientDisconnect from None
    finally:
        watching.cancel()
