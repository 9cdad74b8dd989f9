"""Leadership: of many processes that may do a thing, the one that does it now.

On SQLite the holder of a file lock beside the database, on PostgreSQL the session that holds an advisory lock; both are let go by a death.
A leader that is cut off learns of it at its next question, and another one may lead by then: what a leader does must be harmless when two
do it. Not protected: PostgreSQL behind a pooler that hands one session to several clients.
"""

import contextlib
import logging
from pathlib import Path

from filelock import FileLock, Timeout
from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoFreeConnection

from catdog.database import lock_number

log = logging.getLogger("catdog.leadership")

SILENT_SECONDS = 30
"""PostgreSQL ends the session of a leader that has not asked for so long: its process stands still."""


class Leadership:
    """One process's share in it. Ask from one thread at a time."""

    def __init__(self, engine: Engine, name: str) -> None:
        """Nothing is taken yet.

        Args:
            name: what is led; the same for all who compete.
        """
        self._name = name
        self._lock: _FileLock | _SessionLock
        if engine.dialect.name == "sqlite":
            self._lock = _FileLock(Path(engine.url.database or "").with_name(f"{name}.lock"))
        else:
            self._lock = _SessionLock(engine, lock_number(f"leader {name}"))
        self._led = False

    def held(self) -> bool:
        """Whether this process leads now, having tried to. No waiting for a leader; a database that does not answer has none."""
        leads = self._lock.hold()
        if leads is not self._led:
            log.info("event=%s name=%s", "leads" if leads else "leadership_lost", self._name)
        self._led = leads
        return leads

    def release(self) -> None:
        """Let another one lead."""
        self._lock.release()
        self._led = False


class _FileLock:
    def __init__(self, path: Path) -> None:
        self._lock = FileLock(path, thread_local=False)

    def hold(self) -> bool:
        if not self._lock.is_locked:
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                return False
        return True

    def release(self) -> None:
        self._lock.release()


class _SessionLock:
    """An advisory lock, and the connection outside of the pool whose session has it or asks for it."""

    def __init__(self, engine: Engine, number: int) -> None:
        self._engine = engine
        self._number = number
        self._session: Connection | None = None
        self._held = False

    def hold(self) -> bool:
        if self._held and self._session is not None:
            try:
                self._session.scalar(select(1))  # the session that answers is the one that took the lock
                return True
            except DBAPIError:
                self._drop()
        try:
            if self._session is None:
                self._session = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
                self._session.detach()
                self._session.exec_driver_sql(f"SET idle_session_timeout = '{SILENT_SECONDS}s'")
            self._held = bool(self._session.scalar(select(func.pg_try_advisory_lock(self._number))))
        except (DBAPIError, NoFreeConnection):
            self._drop()
        return self._held

    def release(self) -> None:
        if self._held and self._session is not None:
            with contextlib.suppress(DBAPIError):  # said, so that another may lead at once: the end of a session is noticed a moment later
                self._session.scalar(select(func.pg_advisory_unlock(self._number)))
        self._drop()

    def _drop(self) -> None:
        self._held = False
        if self._session is not None:
            self._session.close()
            self._session = None
