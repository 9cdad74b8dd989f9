"""create_engine, migrate, reading, writing, timestamp, SCHEMA, metadata, jobs, events, models, aliases: the database of the job record.

SQLite in one file on a local disk, or PostgreSQL for several hosts; every statement is right for both. A finished job never changes: a
trigger refuses it, whatever code asks. Not protected: a SQLite file on a network folder, whose locks cannot be relied on.
"""

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

import sqlalchemy
from sqlalchemy import JSON, BigInteger, Boolean, Column, Connection, Double, Engine, ForeignKey, Index, Integer, MetaData, Table, Text
from sqlalchemy import event as hooks
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError
from sqlalchemy.exc import TimeoutError as NoFreeConnection
from sqlalchemy.pool import NullPool

from catdog.errors import BadSettings, Unavailable

BUSY_SECONDS = 5.0
"""How long a transaction waits for another one before it gives up with Unavailable."""
_READING = "catdog_reading"
_MIGRATION_LOCK = 0xCA7D06  # any fixed number: PostgreSQL's advisory locks are named by one
_URL_REMEDY = "Set CATDOG_DATABASE_URL to sqlite:////PATH/catdog.sqlite or postgresql+psycopg://USER:PASSWORD@HOST/NAME, or unset it."

metadata = MetaData()
_Number = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up only a column that is called exactly INTEGER
_Json = JSON(none_as_null=True)

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
# Append-only: the newest row of an alias is where it points, so that the alias and its history cannot disagree.
aliases = Table(
    "aliases", metadata,
    Column("seq", _Number, primary_key=True),
    Column("alias", Text, nullable=False),
    Column("version", _Number, ForeignKey("models.version"), nullable=False),
    Column("reason", Text, nullable=False),
    Column("created", Text, nullable=False),
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

Step = Callable[[Connection], None]
STEPS: tuple[Step, ...] = ()
"""How an older database becomes the present one: the n-th step leads from schema number n to n + 1. A change of a table adds a step."""
SCHEMA = 1 + len(STEPS)
"""The schema number that this code reads and writes."""


def timestamp(moment: datetime | None = None) -> str:
    """A moment (now, if None) as ISO-8601 in UTC with milliseconds, `2026-01-31T09:30:00.000Z`. For people to read, never to compare."""
    return (moment or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def create_engine(url: str) -> Engine:
    """The database behind a SQLAlchemy URL; nothing is opened yet.

    With SQLite a connection lives as long as its transaction (opening one takes 0.2 ms), so an engine may be carried over a fork.
    With PostgreSQL connections are pooled: make the engine in the process that uses it.

    Raises:
        BadSettings: not a URL, neither SQLite in a file nor PostgreSQL, or its driver is not installed.
    """
    try:
        parsed = sqlalchemy.make_url(url)
        kind = parsed.get_backend_name()
        if kind not in ("sqlite", "postgresql") or (kind == "sqlite" and parsed.database in (None, "", ":memory:")):
            raise BadSettings(
                f"Expected the URL of a SQLite file or of a PostgreSQL database. Received: {parsed.render_as_string()!r}.",
                remedy=_URL_REMEDY,
            )
        strict = partial(json.dumps, allow_nan=False)  # PostgreSQL takes no NaN, neither does any reader of our answers
        if kind == "postgresql":
            return sqlalchemy.create_engine(parsed, json_serializer=strict, pool_pre_ping=True, isolation_level="READ COMMITTED")
        engine = sqlalchemy.create_engine(parsed, json_serializer=strict, poolclass=NullPool)
    except ArgumentError as error:  # its text may hold the password
        raise BadSettings("Expected a SQLAlchemy URL. Received: one that cannot be read.", remedy=_URL_REMEDY) from error
    except (NoSuchModuleError, ImportError) as error:
        raise BadSettings(f"Expected an installed database driver. Received: {error}.", remedy=_URL_REMEDY) from error
    hooks.listen(engine, "connect", _set_up_sqlite)
    hooks.listen(engine, "begin", _begin_sqlite)
    return engine


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
        Unavailable: the database is locked, full or cannot be reached; nothing was written.
    """
    try:
        with engine.begin() as connection:
            yield connection
    except (OperationalError, NoFreeConnection, sqlite3.OperationalError) as error:  # the last: from the PRAGMAs of a new connection
        reason = str(getattr(error, "orig", error)) if engine.dialect.name == "sqlite" else type(error).__name__  # no host names
        raise Unavailable(f"Expected the job record to answer within {BUSY_SECONDS:g} seconds. Received: {reason}.") from error


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """One transaction that only reads, and holds up no other reader.

    Raises:
        Unavailable: the database is locked or cannot be reached.
    """
    with writing(engine.execution_options(**{_READING: True})) as connection:
        yield connection


def migrate(engine: Engine, *, steps: Sequence[Step] = STEPS) -> None:
    """Bring a database to the schema number of this code; an empty one gets the tables.

    One transaction, and one process at a time: of two that start at once the second finds the work done.

    Raises:
        BadSettings: the database is newer than the code, is not catdog's, or cannot be opened and written.
    """
    newest = 1 + len(steps)
    try:
        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(sqlalchemy.select(sqlalchemy.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
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
            f"Expected a database of catdog that can be opened and written. Received: {engine.url.render_as_string()} ({reason}).",
            remedy="Look at CATDOG_DATABASE_URL and CATDOG_DATA_DIR, the free disk space and the rights of the folder.",
        ) from error


def _schema_number(connection: Connection) -> int | None:
    if not sqlalchemy.inspect(connection).has_table(_schema.name):
        return None
    number: Any = connection.scalar(sqlalchemy.select(_schema.c.number))
    return int(number)
