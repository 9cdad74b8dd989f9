"""opened, Shop, DATA: a real HTTP server on this machine that sells one file, with ranges, and cuts connections."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DATA = bytes(range(256)) * 2000


class Shop(ThreadingHTTPServer):
    """One file, served with ranges; `cut` ends the connection after so many bytes of the body, or makes a range that short."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Counter)
        self.data, self.etag, self.cut, self.status = DATA, '"one"', 0, 200
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/photographs.zip"


class Counter(BaseHTTPRequestHandler):
    """Answers GET."""

    server: Shop

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        data, begin = self.server.data, 0
        if self.server.status != 200:
            self.send_error(self.server.status)
            return
        if wanted and self.headers.get("If-Range") == self.server.etag:
            begin = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if begin >= len(data):
                self.send_error(416)
                return
            self.send_response(206)
            whole = len(data)
            data = data[: begin + self.server.cut] if self.server.cut else data
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{whole}")
        else:
            self.send_response(200)
        self.send_header("ETag", self.server.etag)
        self.send_header("Content-Length", str(len(data) - begin))
        self.end_headers()
        self.wfile.write(data[begin : begin + self.server.cut] if self.server.cut else data[begin:])
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
        """Say nothing."""


@contextmanager
def opened() -> Iterator[Shop]:
    """A shop that sells until the end."""
    with Shop() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
