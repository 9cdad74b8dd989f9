"""Protocol: HTTP/1.1 by uvicorn and httptools, with what they lack: a limit on what is no body, and word of a client that leaves."""

import asyncio
from typing import TYPE_CHECKING

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

MAX_HEAD_BYTES = 64 * 2**10
"""So much of a request line with headers is taken, and so much of anything else that is not a body: nothing behind the protocol sees it."""


class Protocol(HttpToolsProtocol):
    """A connection. Its requests know when it ends: `request.state.left` is done then.

    What a client sends behind a request that is not answered yet is left with the kernel, the end of the connection behind it too: such a
    client is only missed when its answer is sent.
    """

    _pending = 0
    """Bytes since the last head or piece of a body that was whole."""
    _running: RequestResponseCycle | None = None
    """The request that is being answered; `cycle` is the one that is being read."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        self._left: asyncio.Future[None] = self.loop.create_future()
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has left, or was left."""
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)
        self._left.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Take what has come, unless it is more of a head, of trailers or of a chunk's extensions than anybody needs."""
        self._pending += len(data)
        super().data_received(data)
        if self._pending > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("Invalid HTTP request received.")

    def on_headers_complete(self) -> None:
        """The head is whole. (What is raised here is answered with 400.)"""
        self._pending = 0
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            raise ValueError("Expected a smaller head.")
        self.scope["state"]["left"] = self._left
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._pending = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._pending = 0
        super().on_message_complete()
        if not self.pipeline:  # a large body has paused it, and who does not read does not see that the client leaves
            self.flow.resume_reading()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: "ASGI3Application") -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)
