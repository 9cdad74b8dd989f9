"""The engine's settings, the triggers, and the schema number."""

import gc
import multiprocessing
import os
import select
import signal
import socket
import sqlite3
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Connection, Engine, inspect, make_url, text
from sqlalchemy.exc import IntegrityError

from catdog.database import CONNECTIONS, SCHEMA, create_engine, jobs, migrate, reading, timestamp, writing
from catdog.errors import BadSettings, Unavailable
from catdog.registry import Registry

if TYPE_CHECKING:
    from tests.postgres import Postgres  # the processes that tests start here import this file, and need little of it


def url_of(folder: Path) -> str:
    return f"sqlite:///{folder / 'catdog.sqlite'}"


@pytest.fixture
def sqlite(tmp_path: Path) -> Engine:
    engine = create_engine(url_of(tmp_path))
    migrate(engine)
    return engine


@pytest.fixture
def postgresql(postgresql_url: str) -> Iterator[Engine]:
    engine = create_engine(postgresql_url)
    migrate(engine)
    yield engine
    engine.dispose()


def insert(connection: Connection, state: str = "queued", *, job_id: str = "job_1") -> None:
    connection.execute(jobs.insert().values(
        id=job_id, kind="train", state=state, config={}, request_sha256="", created=timestamp(), updated=timestamp(),
    ))


def number(engine: Engine) -> list[int]:
    with reading(engine) as connection:
        return list(connection.scalars(text("SELECT number FROM catdog_schema")))


def test_sqlite_is_set_up_for_a_power_cut(sqlite: Engine) -> None:
    with reading(sqlite) as connection:
        answers = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous", "foreign_keys")]
        assert [*answers, connection.exec_driver_sql("PRAGMA busy_timeout").scalar()] == ["delete", 3, 1, 5000]


def test_postgresql_waits_for_nobody_for_long(postgresql: Engine) -> None:
    with reading(postgresql) as connection:
        names = ("statement_timeout", "idle_in_transaction_session_timeout", "transaction_isolation", "application_name")
        assert [connection.scalar(text(f"SHOW {name}")) for name in names] == ["5s", "10s", "read committed", "catdog"]
    assert postgresql.url.query["connect_timeout"] == "5"


def test_a_standby_is_unavailable(postgresql_url: str) -> None:
    migrate(engine := create_engine(postgresql_url))
    standby = create_engine(f"{postgresql_url}&options=-c%20default_transaction_read_only%3Don")
    with pytest.raises(Unavailable, match="Received: ReadOnlySqlTransaction"), writing(standby) as connection:
        insert(connection)
    for each in (engine, standby):
        each.dispose()


def test_writers_exclude_each_other_from_the_first_statement_and_readers_do_not(sqlite: Engine) -> None:
    impatient = sqlite3.connect(sqlite.url.database or "", isolation_level=None, timeout=0)
    with reading(sqlite) as connection:
        connection.execute(jobs.select())
        impatient.execute("BEGIN IMMEDIATE")
        impatient.execute("ROLLBACK")
    with writing(sqlite) as connection, pytest.raises(sqlite3.OperationalError, match="locked"):
        impatient.execute("BEGIN IMMEDIATE")
    impatient.close()


def test_a_locked_database_is_unavailable(sqlite: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catdog.database.BUSY_SECONDS", 0.0)
    with writing(sqlite), pytest.raises(Unavailable, match="Received: database is locked"), writing(sqlite):
        pass


def tuned(url: str, **parameters: str) -> Engine:
    """With further libpq parameters, as a user may write them into the URL."""
    engine = create_engine(make_url(url).update_query_dict(parameters).render_as_string())
    migrate(engine)
    return engine


def test_a_locked_row_is_unavailable(postgresql_url: str) -> None:
    engine = tuned(postgresql_url, options="-c statement_timeout=250")
    with writing(engine) as connection:
        insert(connection)
    with writing(engine) as connection:
        connection.execute(jobs.update().values(phase="training"))
        with pytest.raises(Unavailable, match="Received: QueryCanceled"), writing(engine) as late:
            late.execute(jobs.update().values(phase="testing"))
    with reading(engine) as connection:
        assert connection.scalar(text("SELECT phase FROM jobs")) == "training"
    engine.dispose()


def test_a_deadlock_is_unavailable_for_one_and_nothing_for_the_other(postgresql_url: str) -> None:
    engine = tuned(postgresql_url, options="-c deadlock_timeout=50")
    with writing(engine) as connection:
        for job_id in ("job_1", "job_2"):
            insert(connection, job_id=job_id)
    both = threading.Barrier(2)

    def update(first: str, second: str) -> str:
        try:
            with writing(engine) as connection:
                connection.execute(jobs.update().where(jobs.c.id == first).values(phase="training"))
                both.wait(30)
                connection.execute(jobs.update().where(jobs.c.id == second).values(phase="training"))
        except Unavailable as error:
            return error.message
        return "done"

    with ThreadPoolExecutor(2) as pool:
        answers = sorted(pool.map(update, ("job_1", "job_2"), ("job_2", "job_1")))
    assert "DeadlockDetected" in answers[0] and answers[1] == "done"
    engine.dispose()


def test_a_server_that_restarts_is_unavailable_once_and_then_as_before(postgres: "Postgres", postgresql: Engine) -> None:
    with pytest.raises(Unavailable), writing(postgresql) as connection:
        insert(connection)
        postgres.restart()
        connection.execute(jobs.select())
    with reading(postgresql) as connection:
        assert connection.execute(jobs.select()).all() == []
    postgres.restart()  # while every connection lies in the pool: nobody notices
    with writing(postgresql) as connection:
        insert(connection)


def test_a_server_that_has_stopped_answering_is_unavailable(
    postgres: "Postgres", postgresql_url: str, monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = tuned(postgresql_url, connect_timeout="2")
    with writing(engine) as connection:
        insert(connection)
        backend = connection.scalar(text("SELECT pg_backend_pid()"))
    assert isinstance(backend, int)
    monkeypatch.setattr("catdog.database.BUSY_SECONDS", -0.5)  # half a second, see Impatient
    os.kill(backend, signal.SIGSTOP)
    os.kill(postgres.server.pid, signal.SIGSTOP)  # the one who would answer to a new connection
    try:
        with pytest.raises(Unavailable), reading(engine) as connection:
            connection.execute(jobs.select())
    finally:
        for pid in (backend, postgres.server.pid):
            os.kill(pid, signal.SIGCONT)
        monkeypatch.undo()
    with reading(engine) as connection:
        assert len(connection.execute(jobs.select()).all()) == 1
    engine.dispose()


def test_a_host_that_is_not_there_is_unavailable_and_its_password_stays_secret() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    for url in (f"postgresql://user:hush@127.0.0.1:{port}/name", f"postgresql://user@127.0.0.1:{port}/name?password=hush"):
        engine = create_engine(url)
        with pytest.raises(Unavailable) as unavailable, reading(engine):
            pass
        assert str(port) not in unavailable.value.message
        with pytest.raises(BadSettings, match=f"127.0.0.1:{port}/name") as refusal:
            migrate(engine)
        told = "".join(traceback.format_exception(unavailable.value)) + "".join(traceback.format_exception(refusal.value))
        assert "hush" not in told and "hush" not in repr(refusal.value)


def test_who_asks_when_all_connections_are_out_is_told_so(postgresql_url: str) -> None:
    engine = create_engine(postgresql_url)
    engine.pool._timeout = 0  # type: ignore[attr-defined]
    with ExitStack() as held:
        for _ in range(CONNECTIONS):
            held.enter_context(engine.connect())
        with pytest.raises(Unavailable, match="Received: TimeoutError"), reading(engine):
            pass
    engine.dispose()


def test_a_transaction_whose_process_stands_still_is_ended(postgresql_url: str) -> None:
    engine = tuned(postgresql_url, options="-c idle_in_transaction_session_timeout=50")
    with pytest.raises(Unavailable), writing(engine) as connection:
        insert(connection)
        session = connection.connection.driver_connection
        assert session is not None
        select.select([session.fileno()], [], [], 30)  # the server says good-bye
        connection.execute(jobs.select())
    with reading(engine) as connection:
        assert connection.execute(jobs.select()).all() == []
    engine.dispose()


def test_a_forked_process_does_no_harm_to_the_connections_of_its_parent(postgresql: Engine) -> None:
    with reading(postgresql) as connection:
        backend = connection.scalar(text("SELECT pg_backend_pid()"))
    child = multiprocessing.get_context("fork").Process(target=_forget, args=(postgresql,))
    child.start()
    child.join()
    assert child.exitcode == 0
    with reading(postgresql) as connection:
        assert connection.scalar(text("SELECT pg_backend_pid()")) == backend


def _forget(engine: Engine) -> None:
    engine.dispose(close=False)
    gc.collect()
    with reading(engine) as connection:  # one of its own
        connection.execute(jobs.select())


def test_an_error_rolls_back(engine: Engine) -> None:
    with pytest.raises(ZeroDivisionError), writing(engine) as connection:
        insert(connection)
        raise ZeroDivisionError
    with reading(engine) as connection:
        assert connection.execute(jobs.select()).all() == []


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
def test_a_finished_row_never_changes(engine: Engine, state: str) -> None:
    with writing(engine) as connection:
        insert(connection, state)
    with pytest.raises(IntegrityError, match="a finished job never changes"), writing(engine) as connection:
        connection.execute(jobs.update().values(state="queued"))
    with reading(engine) as connection:
        assert connection.scalar(jobs.select().with_only_columns(jobs.c.state)) == state


def test_nan_is_refused(engine: Engine) -> None:
    with pytest.raises(Exception, match="not JSON compliant"), writing(engine) as connection:
        connection.execute(jobs.update().values(progress={"loss": float("nan")}))


def test_migrating_twice_changes_nothing(engine: Engine) -> None:
    with writing(engine) as connection:
        insert(connection)
    migrate(engine)
    assert number(engine) == [SCHEMA]
    with reading(engine) as connection:
        assert len(connection.execute(jobs.select()).all()) == 1


def shape(engine: Engine) -> dict[str, object]:
    """Every table, with its columns, keys and indexes, as the database itself tells of them."""
    looked = inspect(engine)
    return {
        name: (
            [(column["name"], str(column["type"]), column["nullable"], column["default"]) for column in looked.get_columns(name)],
            looked.get_pk_constraint(name)["constrained_columns"],
            sorted((key["constrained_columns"], key["referred_table"]) for key in looked.get_foreign_keys(name)),
            sorted((index["name"] or "", index["column_names"]) for index in looked.get_indexes(name)),
        )
        for name in looked.get_table_names()
    }


def test_a_database_of_the_first_schema_becomes_a_present_one_and_keeps_what_it_has(engine: Engine) -> None:
    wanted, kind = shape(engine), engine.dialect.name
    if kind == "sqlite":
        Path(engine.url.database or "").unlink()
    with writing(engine) as connection:
        emptied = () if kind == "sqlite" else ("DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
        made = (Path(__file__).parent / "golden" / f"schema_1.{kind}.sql").read_text()
        for statement in (*emptied, *made.removesuffix(";\n").split(";\n\n"), "INSERT INTO catdog_schema VALUES (1)"):
            connection.exec_driver_sql(statement)
        insert(connection)
        connection.exec_driver_sql("INSERT INTO models (job_id, digest, labels, metrics, created) VALUES ('job_1', 'ab', '[]', '{}', '')")
        connection.exec_driver_sql("INSERT INTO aliases (alias, version, reason, created) VALUES ('champion', 1, 'published by job_1', '')")
    migrate(engine)
    assert number(engine) == [SCHEMA] and shape(engine) == wanted
    move, = Registry(engine).history("champion")
    assert (move.version, move.reason, move.how, move.comparison) == (1, "published by job_1", "unchecked", None)


def add_column(connection: Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE jobs ADD COLUMN colour TEXT")


def test_a_step_is_applied_once_and_older_code_then_refuses(engine: Engine) -> None:
    migrate(engine, steps=[add_column] * SCHEMA)  # as a later catdog would; twice the column would fail
    migrate(engine, steps=[add_column] * SCHEMA)
    assert number(engine) == [SCHEMA + 1]
    with pytest.raises(BadSettings, match=rf"at most {SCHEMA}\. Received: {SCHEMA + 1}") as refusal:
        migrate(engine)
    assert "newer catdog" in refusal.value.remedy
    assert number(engine) == [SCHEMA + 1]


def test_a_step_that_fails_leaves_the_database_as_it_was(engine: Engine) -> None:
    def broken(connection: Connection) -> None:
        add_column(connection)
        connection.exec_driver_sql("SELECT no_such_column FROM jobs")

    with pytest.raises(BadSettings, match="no_such_column"):
        migrate(engine, steps=[broken] * SCHEMA)
    assert number(engine) == [SCHEMA]
    migrate(engine, steps=[add_column] * SCHEMA)


def _migrate_at_once(url: str, steps: int, barrier: Barrier) -> None:
    engine = create_engine(url)
    barrier.wait(30)
    migrate(engine, steps=[add_column] * steps)
    engine.dispose()


def test_processes_may_start_at_once(database_url: str) -> None:
    context = multiprocessing.get_context("spawn")
    for steps in (SCHEMA - 1, SCHEMA):  # an empty database, then one that needs a step
        barrier = context.Barrier(2)
        processes = [context.Process(target=_migrate_at_once, args=(database_url, steps, barrier)) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0, 0]
        engine = create_engine(database_url)
        assert number(engine) == [1 + steps]
        engine.dispose()


@pytest.mark.parametrize("url", [
    "sqlite://", "sqlite:///:memory:", "mysql://host/name", "no url",
    "postgresql+nodriver://host/name", "postgresql+asyncpg://host/name", "postgres://host/name", "postgresql://host:port/name",
])
def test_a_url_that_cannot_hold_the_record_is_refused(url: str) -> None:
    with pytest.raises(BadSettings, match=r"Expected .* Received: ") as refusal:
        create_engine(url)
    assert "CATDOG_DATABASE_URL" in refusal.value.remedy


def test_a_refusal_does_not_tell_the_password() -> None:
    for url in (
        "mysql://user:hush@host/name", "mysql://user@host/name?password=hush", "postgresql//user:hush@host", "postgresql://user@host:hush/name",
    ):
        with pytest.raises(BadSettings) as refusal:
            create_engine(url)
        assert "hush" not in "".join(traceback.format_exception(refusal.value))


def test_a_url_without_a_driver_means_psycopg(postgresql_url: str) -> None:
    engine = create_engine(postgresql_url.replace("+psycopg", ""))
    migrate(engine)
    assert number(engine) == [SCHEMA]
    engine.dispose()


def test_a_file_that_is_no_database_and_a_missing_folder_are_bad_settings(tmp_path: Path) -> None:
    (tmp_path / "catdog.sqlite").write_bytes(b"not a database, but long enough to be read as one" * 100)
    with pytest.raises(BadSettings, match="not a database"):
        migrate(create_engine(url_of(tmp_path)))
    with pytest.raises(BadSettings, match="unable to open"):
        migrate(create_engine(url_of(tmp_path / "nowhere")))


def test_somebody_elses_database_is_left_alone(database_url: str) -> None:
    engine = create_engine(database_url)
    with writing(engine) as connection:
        connection.execute(text("CREATE TABLE models (name TEXT)"))
    with pytest.raises(BadSettings, match=r'"?models"? already exists'):
        migrate(engine)
    assert inspect(engine).get_table_names() == ["models"]
    engine.dispose()
