"""Door, token_digest, address: what every request passes before anything reads it. Pure ASGI.

    Host known? -> token right? -> body within its limit? -> the application -> request id and security headers on the way out

Not here: how long a client may take to send (uvicorn has no such limit; beyond loopback put a proxy with time-outs in front).
"""

import asyncio
import contextlib
import hashlib
import hmac
import json
import logging
import re
import time
import uuid
from collections.abc import Iterator
from http import HTTPMethod

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from catdog.errors import CatdogError, Forbidden
from catdog.settings import LOOPBACK_NAMES, Settings
from service import problems
from service.metrics import REQUESTS

log = logging.getLogger("catdog.service")

OPEN_PATHS = ("/health/live", "/v2/health/live")
"""What answers without a token: whether the process is alive, and nothing else."""
MULTIPART_BYTES = 64 * 2**10
"""What a form may add around its picture."""
MAX_TENSOR_JSON_BYTES = 8 * 2**20
"""Of an inference request (Open Inference Protocol) without binary tensors: JSON becomes up to 55 times its size when it is read."""
LINGER_SECONDS = 5
"""So long is what a refused client still sends taken and thrown away. A socket that is closed with bytes unread is reset, and the reset
takes the answer from a client that first sends and then reads: most do (nginx has lingering_close for the same)."""

_METHODS = frozenset(HTTPMethod)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class _BodyTooLarge(HTTPException):
    """An HTTPException, because FastAPI answers 400 to every other error that comes out of reading a body."""

    def __init__(self, limit: int) -> None:
        super().__init__(413, f"Expected a body of at most {limit} bytes here. Received: more.")
        self.limit = limit


class Door:
    """The ASGI middleware around the application."""

    def __init__(self, app: ASGIApp, *, settings: Settings, token: bytes | None) -> None:
        """`token` is the sha256 of the one that clients must show; None: none is needed."""
        self._app = app
        self._settings = settings
        self._token = token
        names = (*LOOPBACK_NAMES, settings.host, f"[{settings.host}]", *settings.allowed_hosts.split(","))
        self._hosts = {name.strip().lower() for name in names} - {""}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visit = _Visit(scope, receive, send, limit=self._limit(scope))
        try:
            self._check(visit.headers)
            self._check_token(scope["path"], visit.headers)
            visit.check_length()
            await self._app(scope, visit.receive, visit.send)
        except ClientDisconnect:
            log.info("event=client_left request=%s", visit.request_id)
        except Exception as error:
            if not isinstance(error, (CatdogError, HTTPException)):
                log.exception("event=unexpected_error request=%s", visit.request_id)
            if visit.status is not None:
                raise  # half an answer is out; only breaking the connection tells the client
            await problems.of(error).response(scope)(scope, receive, visit.send)
        visit.end(route=getattr(scope.get("route"), "path", "none"))

    def _check(self, headers: Headers) -> None:
        # A web page may let its own host name point here and so read our answers (DNS rebinding); the name gives it away.
        hosts = headers.getlist("host")
        name = re.sub(r":\d*$", "", hosts[0]).lower() if len(hosts) == 1 else ""
        if name not in self._hosts:
            received = ", ".join(hosts)[:200] or "none"
            raise HTTPException(400, f"Expected a Host that this service is known by (CATDOG_ALLOWED_HOSTS). Received: {received}.")

    def _check_token(self, path: str, headers: Headers) -> None:
        if self._token is None or path in OPEN_PATHS:
            return
        kind, _, token = headers.get("authorization", "").partition(" ")
        # Digests have one length and reveal nothing by how long their comparison takes.
        if kind.lower() != "bearer" or not hmac.compare_digest(_digest(token.strip()), self._token):
            received = "none" if not token else "another one"
            raise Forbidden(f"Expected the service's token. Received: {received}.")

    def _limit(self, scope: Scope) -> int:
        if scope["path"] == "/v1/predict":
            return self._settings.max_image_bytes + MULTIPART_BYTES
        if scope["path"] == "/v1/predict/batch":
            return self._settings.max_batch_bytes + MULTIPART_BYTES
        if scope["path"].startswith("/v2/models/"):
            json_bytes = Headers(scope=scope).get("inference-header-content-length")
            if json_bytes == "0":  # the whole body is one picture
                return self._settings.max_image_bytes
            return MAX_TENSOR_JSON_BYTES if json_bytes is None else self._settings.max_batch_bytes + MAX_TENSOR_JSON_BYTES
        if scope["path"] == "/v1/datasets" and media_type(Headers(scope=scope)) != "application/json":
            return self._settings.max_archive_bytes
        return self._settings.max_json_bytes


class _Visit:
    """One request and its answer, on their way through the door."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, limit: int) -> None:
        self.headers = Headers(scope=scope)
        self.status: int | None = None
        self._receive, self._send, self._limit = receive, send, limit
        self._began = time.monotonic()
        self._received_bytes = 0
        self._body_left = "transfer-encoding" in self.headers or self.headers.get("content-length", "0") != "0"
        self._method, self._path = scope["method"], scope["path"]
        wanted = self.headers.get("x-request-id", "")
        self.request_id = wanted if _REQUEST_ID.fullmatch(wanted) else uuid.uuid4().hex
        length = self.headers.get("content-length", "")
        self._length = int(length) if length.isdecimal() else None
        scope.setdefault("state", {}).update(request_id=self.request_id, body_bytes=limit if self._length is None else self._length)

    def check_length(self) -> None:
        """Refuse a body that says itself that it is too long, before any of it is read."""
        if self._length is not None and self._length > self._limit:
            raise _BodyTooLarge(self._limit)

    async def receive(self) -> Message:
        """Count what comes: a chunked body does not say how long it is."""
        message = await self._receive()
        if message["type"] == "http.request":
            self._body_left = message.get("more_body", False)
            self._received_bytes += len(message.get("body", b""))
            if self._received_bytes > self._limit:
                self._body_left = True
                raise _BodyTooLarge(self._limit)
        return message

    async def send(self, message: Message) -> None:
        """Add our headers to the answer."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message["headers"], *self._headers({name for name, _ in message["headers"]})]}
        elif self._refuses_body() and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._linger()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    def _headers(self, said: set[bytes]) -> Iterator[tuple[bytes, bytes]]:
        """What is added to headers that have been said."""
        yield b"x-request-id", self.request_id.encode()
        yield from (header for header in _HEADERS if header[0] not in said)
        if self._path.startswith("/v1/") and b"cache-control" not in said:
            yield b"cache-control", b"no-store"
        if self._refuses_body():
            yield b"connection", b"close"

    def _refuses_body(self) -> bool:
        return self._body_left and self.status is not None and self.status >= 400

    async def _linger(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while (await self._receive()).get("more_body", False):
                    pass

    def end(self, *, route: str) -> None:
        """Count the request, and one line for the access log. A method that nobody knows is a label that anybody could make up."""
        seconds = time.monotonic() - self._began
        method = self._method if self._method in _METHODS else "other"
        REQUESTS.labels(method, route, str(self.status)).observe(seconds)
        level = logging.DEBUG if self._path.startswith("/health/") else logging.INFO
        path = json.dumps(self._path[:200])  # quoted: a path may hold line breaks
        log.log(
            level, "event=request method=%s path=%s status=%s ms=%.1f request=%s",
            self._method, path, self.status, 1000 * seconds, self.request_id,
        )


def media_type(headers: Headers) -> str:
    """The content type of a request, in lower case and without parameters; empty if it says none."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def token_digest(token: str | None) -> bytes | None:
    """The sha256 of the token that clients must show; None where none is needed."""
    return None if token is None else _digest(token)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def address(host: str, port: int) -> str:
    """Where a client on this machine reaches the service."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}"
