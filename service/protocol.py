"""Protocol: HTTP/1.1 by uvicorn and httptools, with the limit that they lack: on what is no body."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 2**10
"""So much of a request line with headers is taken, and so much of anything else that is not a body: nothing behind the protocol sees it."""


class Protocol(HttpToolsProtocol):
    """A connection."""

    _pending = 0
    """Bytes since the last head or piece of a body that was whole."""

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
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._pending = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._pending = 0
        super().on_message_complete()
