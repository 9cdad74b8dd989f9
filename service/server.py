"""main: `python -m service`. One uvicorn process that says where it is in DATA_DIR/service.json."""

import contextlib
import json
import logging
import os
import signal
import socket
import sys
from types import FrameType
from typing import NoReturn

import uvicorn
from fastapi import FastAPI

from catdog.database import create_engine, migrate
from catdog.errors import BadSettings
from catdog.files import write_atomically
from catdog.machine import Machine, problems
from catdog.settings import Settings
from service.app import create_app
from service.door import address
from service.protocol import Protocol

log = logging.getLogger("catdog.service")

GRACE_SECONDS = 5
"""From SIGTERM until requests under way are cut off."""
BACKLOG = 2048


class Server(uvicorn.Server):
    """A uvicorn server that announces itself once it listens, and takes that back before it stops."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        super().__init__(uvicorn.Config(
            app, loop="uvloop", http=Protocol, ws="none", lifespan="on",
            log_config=None, access_log=False,
            server_header=False, proxy_headers=False, timeout_graceful_shutdown=GRACE_SECONDS,
        ))
        self._app = app
        self._settings = settings
        self._announcement = settings.root / "service.json"
        self._said: dict[str, str | int] = {}

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the application and listen."""
        await super().startup(sockets)
        if sockets:
            self._said = {
                "address": address(self._settings.host, sockets[0].getsockname()[1]), "host": socket.gethostname(), "pid": os.getpid(),
            }
            with write_atomically(self._announcement) as path:
                path.write_text(json.dumps(self._said))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, let requests under way finish, close the application."""
        with contextlib.suppress(OSError, ValueError):
            if json.loads(self._announcement.read_text()) == self._said:  # else another service shares the folder, and came later
                self._announcement.unlink(missing_ok=True)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop."""
        if hasattr(self._app.state, "parts"):
            self._app.state.parts.closing.set()
        super().handle_exit(sig, frame)


def main() -> int:
    """Serve until SIGTERM or SIGINT; return the exit status: 0, or 2 when this machine is not set up to run."""
    # Each line would look for its thread, its process and its caller, which none shows (logging HOWTO, "Optimization").
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="time=%(asctime)s level=%(levelname)s logger=%(name)s %(message)s")
    for name in ("uvicorn", "filelock", "kombu", "celery", "amqp"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # uvicorn raises the signal that ended it once more when it is done; by default that would be a death, not an end.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    try:
        settings = Settings.load()
        settings.make_folders()
        for problem in problems(Machine.look(), settings, runs=False):
            log.warning("event=machine_problem %s", problem.line())
        engine = create_engine(settings.database)
        migrate(engine)
        engine.dispose()
        server = Server(create_app(settings), settings)
        listener = listen(settings.host, settings.port)
    except BadSettings as error:
        sys.stderr.write(f"{error.message} {error.remedy}\n")
        return 2
    _take_turns()
    server.run(sockets=[listener])
    return 0


def _take_turns() -> None:
    """Let this thread, and the threads and processes that it starts, the decoders among them, not take the core of one that computes only
    because they wake (SCHED_BATCH, sched(7)).

    Else a crowd makes everything slow: the event loop and the decoders break into the network's layers for a few lines each, and all of
    them find their caches cold. Now they wait for a free core or the scheduler's next tick (4 ms where it has 250 a second), and do at once
    what has come meanwhile: 7 % more answers a second (EfficientNet-B0, 16 connections, 2 cores). One client, also beside a training, is
    answered as soon as before; a crowd beside other programs that compute all the time, and no nicer, gets a tenth less.
    """
    with contextlib.suppress(OSError):  # a container may not allow it
        if os.sched_getscheduler(0) == os.SCHED_OTHER:  # nobody has chosen another policy (chrt)
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        BadSettings: the address cannot be bound.
    """
    try:
        family, *_, bound = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(bound[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise BadSettings(
            f"Expected an address that can be bound. Received: {host} port {port} ({error.strerror}).",
            remedy="Stop what uses it, or set CATDOG_PORT to another one; 0 takes any that is free.",
        ) from error
    listener.setblocking(False)
    return listener


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)
