"""Postgres: a real PostgreSQL server for the tests, from the system's packages, on a UNIX socket in a folder of its own."""

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import sql

from catdog import process
from tests.living import until

USER = "catdog"
# Nothing here must survive a power cut, and everything must be quick.
OPTIONS = ("listen_addresses=", "fsync=off", "full_page_writes=off", "synchronous_commit=off", "autovacuum=off", "shared_buffers=32MB")


def binaries() -> Path | None:
    """The folder of initdb and postgres, the newest if there are several; Debian keeps them off the PATH."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
    on_the_path = shutil.which("postgres")
    found = [*([Path(on_the_path).parent] if on_the_path else []), *folders]
    return next((folder for folder in reversed(found) if (folder / "initdb").exists()), None)


class Postgres:
    """Use as a context manager. The server dies with this process; as root it runs as the user `postgres`, because it refuses root."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._numbers = itertools.count(1)
        self._user: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="catdog-pg-"))  # short: a socket's path may have 107 bytes
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self._folder, user.pw_uid, user.pw_gid)
            self._user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        made = [str(self._programs / "initdb"), "--pgdata", str(self._folder / "data"), "--username", USER]
        command = [*made, "--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self._folder, **self._user)
        self.start()
        self._administrator = self._connect()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._administrator.close()
        self.stop()
        shutil.rmtree(self._folder)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        parent = os.getpid()
        settings = [part for option in OPTIONS for part in ("-c", option)]
        with (self._folder / "log").open("ab") as log:
            self.server = subprocess.Popen(
                [self._programs / "postgres", "-D", self._folder / "data", "-k", self._folder, *settings], stdout=log, stderr=log,
                cwd=self._folder, preexec_fn=lambda: process.die_with_parent(parent), **self._user,  # noqa: PLW1509 - as in process.py
            )
        until(self._answers, "PostgreSQL to answer")

    def stop(self) -> None:
        """Stop it; every session is cut off."""
        self.server.send_signal(signal.SIGINT)
        self.server.wait()

    def restart(self) -> None:
        """Stop it and start it again; what was committed is still there."""
        self._administrator.close()
        self.stop()
        self.start()
        self._administrator = self._connect()

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """The URL of a new, empty database, which is dropped at the end."""
        name = f"test{next(self._numbers)}"
        self._administrator.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield f"postgresql+psycopg://{USER}@/{name}?host={self._folder}"
        self._administrator.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def execute(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Do something as the administrator."""
        cursor = self._administrator.execute(statement.encode(), parameters)
        return cursor.fetchall() if cursor.description else []

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(host=str(self._folder), user=USER, dbname="postgres", autocommit=True, connect_timeout=5)

    def _answers(self) -> bool:
        assert self.server.poll() is None, (self._folder / "log").read_text()
        with contextlib.suppress(psycopg.OperationalError):
            self._connect().close()
            return True
        return False
