"""create_engine, migrate, reading, writing, alone, timestamp, SCHEMA, metadata and its tables: the job record's database.

SQLite in one file on a local disk, or PostgreSQL for several hosts; every statement is right for both. A finished job never changes: a
trigger refuses it, whatever code asks. Not protected: a SQLite file on a network folder, whose locks cannot be relied on.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

import sqlalchemy
from sqlalchemy import JSON, BigInteger, Boolean, Column, Connection, Double, Engine, ForeignKey, Index, Integer, MetaData, Table
from sqlalchemy import event as hooks
from sqlalchemy.exc import ArgumentError, DBAPIError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as NoFreeConnection
from sqlalchemy.pool import NullPool

from catdog.errors import BadSettings, Unavailable
from catdog.migrations import STEPS, Step

BUSY_SECONDS = 5.0
"""How long a transaction waits for another one, or for the server, before it gives up with Unavailable."""
CONNECTIONS = 10
"""The most connections to PostgreSQL that an engine opens. Three services of 10 and 2 for their leadership (see leadership.py) with 30
workers of 2 are 96 of the 97 that PostgreSQL gives to its users by default; SQLite has no such limit."""
_PATIENCE = {
    "connect_timeout": f"{BUSY_SECONDS:.0f}",
    # To be sure the server lets go of a lock whose holder has vanished with its host, and of a transaction whose process stands still.
    "options": f"-c statement_timeout={BUSY_SECONDS * 1000:.0f} -c idle_in_transaction_session_timeout={2 * BUSY_SECONDS * 1000:.0f}"
               " -c tcp_keepalives_idle=5 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3",
    "client_encoding": "utf8",  # else a database made in the C locale answers in bytes
    "application_name": "catdog",
}
"""libpq's parameters of a connection to PostgreSQL, where the URL has no others."""
_READING = "catdog_reading"
_URL_REMEDY = "Set CATDOG_DATABASE_URL to sqlite:////PATH/catdog.sqlite or postgresql+psycopg://USER:PASSWORD@HOST/NAME, or unset it."

metadata = MetaData()
_Number = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up only a column that is called exactly INTEGER
_Json = JSON(none_as_null=True)


class Text(sqlalchemy.TypeDecorator[str]):
    """Text in which every NUL is U+FFFD: PostgreSQL takes none, and an id from outside that holds one must only be unknown."""

    impl = sqlalchemy.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sqlalchemy.Dialect) -> str | None:  # noqa: ARG002 - SQLAlchemy's signature
        """What is sent to the database."""
        return value and value.replace("\0", "\ufffd")


jobs = Table(
    "jobs", metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("config", _Json, nullable=False),
    Column("resumed_from", Text, ForeignKey("jobs.id")),
    Column("idempotency_key", Text, unique=True),
    Column("request_sha256", Text, nullable=False),
    Column("phase", Text),
    Column("progress", _Json),
    Column("device", _Json),
    Column("error", _Json),
    Column("result", _Json),
    Column("cancel_requested", Boolean, nullable=False, default=False),
    Column("attempt", Integer, nullable=False, default=0),
    Column("fence", BigInteger, nullable=False, default=0),
    Column("heartbeat", BigInteger, nullable=False, default=0),
    Column("owner", _Json),
    Column("losses", Integer, nullable=False, default=0, comment="attempts lost in a row without getting further"),
    Column("furthest_phase", Integer, nullable=False, default=-1, comment="index into progress.PHASES, over all attempts"),
    Column("furthest_step", BigInteger, nullable=False, default=-1, comment="step of the newest checkpoint, over all attempts"),
    Column("next_run_at", Double, nullable=False, default=0.0, comment="seconds since the epoch; only the back-off compares it"),
    Column("created", Text, nullable=False),
    Column("started", Text),
    Column("finished", Text),
    Column("updated", Text, nullable=False),
    Index("jobs_by_state", "state", "id"),
)
events = Table(
    "events", metadata,
    Column("seq", _Number, primary_key=True),
    Column("job_id", Text, ForeignKey("jobs.id"), nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("data", _Json, nullable=False),
    Column("created", Text, nullable=False),
    Index("events_by_job", "job_id", "seq"),
    sqlite_autoincrement=True,
)
models = Table(
    "models", metadata,
    Column("version", _Number, primary_key=True),
    Column("job_id", Text, ForeignKey("jobs.id"), nullable=False, unique=True),
    Column("digest", Text, nullable=False),
    Column("labels", _Json, nullable=False),
    Column("metrics", _Json, nullable=False),
    Column("created", Text, nullable=False),
    sqlite_autoincrement=True,
)
comparisons = Table(
    "comparisons", metadata,
    Column("seq", _Number, primary_key=True),
    Column("job_id", Text, ForeignKey("jobs.id"), nullable=False),
    Column("challenger", _Number, ForeignKey("models.version"), nullable=False),
    Column("champion", _Number, ForeignKey("models.version"), nullable=False),
    Column("evidence", _Json, nullable=False),
    Index("comparisons_by_versions", "challenger", "champion", "seq"),
    sqlite_autoincrement=True,
)
# Append-only: the newest row of an alias is where it points, so that the alias and its history cannot disagree.
aliases = Table(
    "aliases", metadata,
    Column("seq", _Number, primary_key=True),
    Column("alias", Text, nullable=False),
    Column("version", _Number, ForeignKey("models.version"), nullable=False),
    Column("reason", Text, nullable=False),
    Column("created", Text, nullable=False),
    Column("how", Text, nullable=False, server_default="unchecked"),
    Column("comparison", _Number, ForeignKey("comparisons.seq")),
    Index("aliases_by_name", "alias", "seq"),
    sqlite_autoincrement=True,
)
_schema = Table("catdog_schema", metadata, Column("number", Integer, primary_key=True))

_FINISHED = "OLD.state IN ('succeeded', 'failed', 'cancelled')"
_TRIGGERS = {
    "sqlite": (
        f"CREATE TRIGGER jobs_finished BEFORE UPDATE ON jobs WHEN {_FINISHED} "
        "BEGIN SELECT RAISE(ABORT, 'a finished job never changes'); END",
    ),
    "postgresql": (
        "CREATE FUNCTION jobs_finished() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE EXCEPTION 'a finished job never changes' USING ERRCODE = 'integrity_constraint_violation'; END $$",
        f"CREATE TRIGGER jobs_finished BEFORE UPDATE ON jobs FOR EACH ROW WHEN ({_FINISHED}) EXECUTE FUNCTION jobs_finished()",
    ),
}

SCHEMA = 1 + len(STEPS)
"""The schema number that this code reads and writes."""


def timestamp(moment: datetime | None = None) -> str:
    """A moment (now, if None) as ISO-8601 in UTC with milliseconds, `2026-01-31T09:30:00.000Z`. For people to read, never to compare."""
    return (moment or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def create_engine(url: str) -> Engine:
    """The database behind a SQLAlchemy URL; nothing is opened yet.

    With SQLite a connection lives as long as its transaction (opening one takes 0.2 ms), so an engine may be carried over a fork.
    With PostgreSQL connections are pooled: make the engine in the process that uses it, and dispose of it there.

    Raises:
        BadSettings: not a URL, or neither SQLite in a file nor PostgreSQL.
    """
    try:
        parsed = sqlalchemy.make_url(url)
    except (ArgumentError, ValueError):  # its text, and that of the error, may hold the password
        raise BadSettings("Expected a SQLAlchemy URL. Received: one that cannot be read.", remedy=_URL_REMEDY) from None
    strict = partial(json.dumps, allow_nan=False)  # PostgreSQL takes no NaN, neither does any reader of our answers
    if parsed.drivername in ("postgresql", "postgresql+psycopg"):
        parsed = parsed.set(drivername="postgresql+psycopg", query={**_PATIENCE, **parsed.query})
        engine = sqlalchemy.create_engine(
            parsed, json_serializer=strict, isolation_level="READ COMMITTED", pool_pre_ping=True,
            pool_size=CONNECTIONS // 2, max_overflow=CONNECTIONS - CONNECTIONS // 2, pool_timeout=BUSY_SECONDS,
        )
        hooks.listen(engine, "do_connect", _connect_to_postgresql)
        return engine
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite") or parsed.database in (None, "", ":memory:"):
        raise BadSettings(
            f"Expected the URL of a SQLite file or of a PostgreSQL database, with psycopg as its driver. Received: {_shown(parsed)}.",
            remedy=_URL_REMEDY,
        )
    engine = sqlalchemy.create_engine(parsed, json_serializer=strict, poolclass=NullPool)
    hooks.listen(engine, "connect", _set_up_sqlite)
    hooks.listen(engine, "begin", _begin_sqlite)
    return engine


def _shown(url: sqlalchemy.URL) -> str:
    """A URL without its password, which may also stand among its parameters."""
    return repr(url.set(query={}).render_as_string())


def _connect_to_postgresql(_dialect: sqlalchemy.Dialect, _record: object, arguments: list[Any], options: dict[str, Any]) -> object:
    from catdog.postgresql import Impatient  # a service with SQLite is up a tenth of a second sooner without psycopg

    connection = Impatient.connect(*arguments, **options)
    connection.seconds = BUSY_SECONDS
    return connection


def _set_up_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # the sqlite3 module begins no transactions of its own: _begin_sqlite does
    connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000:.0f}")  # first: the others may have to wait for a lock
    connection.execute("PRAGMA journal_mode = DELETE")  # WAL before SQLite 3.51.3 can lose a commit (its WAL-reset race)
    connection.execute("PRAGMA synchronous = EXTRA")  # an acknowledged job survives a power cut
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: Connection) -> None:
    # IMMEDIATE takes the write lock before the first read: what a transaction has read cannot change until it writes.
    connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get(_READING) else "BEGIN IMMEDIATE")


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """One transaction that writes: committed at the end, rolled back by any error.

    Raises:
        Unavailable: the database is locked, full or cannot be reached; nothing was written, unless the answer to the commit was lost.
    """
    try:
        with engine.begin() as connection:
            yield connection
    except (DBAPIError, NoFreeConnection, sqlite3.OperationalError) as error:  # the last: from the PRAGMAs of a new connection
        if not _passes(error):
            raise
        cause = getattr(error, "orig", error)
        reason = str(cause) if engine.dialect.name == "sqlite" else type(cause).__name__  # no host names
        raise Unavailable(f"Expected the job record to answer within {BUSY_SECONDS:g} seconds. Received: {reason}.") from error


def _passes(error: Exception) -> bool:
    """Whether the database is to blame and not the statement. InternalError: the transaction stood still; a standby answers."""
    if not isinstance(error, DBAPIError):
        return True
    return error.connection_invalidated or isinstance(error, (OperationalError, InternalError))


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """One transaction that only reads, and holds up no other reader.

    Raises:
        Unavailable: the database is locked or cannot be reached.
    """
    with writing(engine.execution_options(**{_READING: True})) as connection:
        yield connection


def alone(connection: Connection, what: str) -> None:
    """From here to the end of the transaction, wait for the others that said the same words. On SQLite a transaction is always alone."""
    if connection.dialect.name == "postgresql":
        connection.execute(sqlalchemy.select(sqlalchemy.func.pg_advisory_xact_lock(lock_number(what))))


def lock_number(what: str) -> int:
    """The number by which PostgreSQL knows an advisory lock: eight bytes of a hash."""
    return int.from_bytes(hashlib.sha256(f"catdog {what}".encode()).digest()[:8], signed=True)


def migrate(engine: Engine, *, steps: Sequence[Step] = STEPS) -> None:
    """Bring a database to the schema number of this code; an empty one gets the tables.

    One transaction, and one process at a time: of two that start at once the second finds the work done.

    Raises:
        BadSettings: the database is newer than the code, is not catdog's, or cannot be opened and written.
    """
    newest = 1 + len(steps)
    try:
        with engine.begin() as connection:
            alone(connection, "migration")
            number = _schema_number(connection)
            if number is None:
                metadata.create_all(connection, checkfirst=False)  # a table that is there already is somebody else's: fail
                for trigger in _TRIGGERS[engine.dialect.name]:
                    connection.exec_driver_sql(trigger)
                number = newest
                connection.execute(_schema.insert().values(number=number))
            if number > newest:
                raise BadSettings(
                    f"Expected a database with a schema number of at most {newest}. Received: {number}, made by a newer catdog.",
                    remedy="Start the newer catdog, or set CATDOG_DATA_DIR to another folder.",
                )
            for step in steps[number - 1:]:
                step(connection)
            connection.execute(_schema.update().values(number=newest))
    except (DBAPIError, sqlite3.Error) as error:
        reason = getattr(error, "orig", error)
        raise BadSettings(
            f"Expected a database of catdog that can be opened and written. Received: {_shown(engine.url)} ({reason}).",
            remedy="Look at CATDOG_DATABASE_URL and CATDOG_DATA_DIR, the free disk space and the rights of the folder.",
        ) from error


def _schema_number(connection: Connection) -> int | None:
    if not sqlalchemy.inspect(connection).has_table(_schema.name):
        return None
    number: Any = connection.scalar(sqlalchemy.select(_schema.c.number))
    return int(number)
