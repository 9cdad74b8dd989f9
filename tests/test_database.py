"""The engine's settings, the triggers, and the schema number."""

import multiprocessing
import sqlite3
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from sqlalchemy import Connection, Dialect, Engine, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import IntegrityError
from sqlalchemy.schema import CreateTable

from catdog.database import SCHEMA, create_engine, jobs, metadata, migrate, reading, timestamp, writing
from catdog.errors import BadSettings, Unavailable


def url_of(folder: Path) -> str:
    return f"sqlite:///{folder / 'catdog.sqlite'}"


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    engine = create_engine(url_of(tmp_path))
    migrate(engine)
    return engine


def insert(connection: Connection, state: str = "queued") -> None:
    connection.execute(jobs.insert().values(
        id="job_1", kind="train", state=state, config={}, request_sha256="", created=timestamp(), updated=timestamp(),
    ))


def number(engine: Engine) -> list[int]:
    with reading(engine) as connection:
        return list(connection.scalars(text("SELECT number FROM catdog_schema")))


def test_sqlite_is_set_up_for_a_power_cut(engine: Engine) -> None:
    with reading(engine) as connection:
        answers = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous", "foreign_keys")]
        assert [*answers, connection.exec_driver_sql("PRAGMA busy_timeout").scalar()] == ["delete", 3, 1, 5000]


def test_writers_exclude_each_other_from_the_first_statement_and_readers_do_not(engine: Engine) -> None:
    impatient = sqlite3.connect(engine.url.database or "", isolation_level=None, timeout=0)
    with reading(engine) as connection:
        connection.execute(jobs.select())
        impatient.execute("BEGIN IMMEDIATE")
        impatient.execute("ROLLBACK")
    with writing(engine) as connection, pytest.raises(sqlite3.OperationalError, match="locked"):
        impatient.execute("BEGIN IMMEDIATE")
    impatient.close()


def test_a_locked_database_is_unavailable(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catdog.database.BUSY_SECONDS", 0.0)
    with writing(engine), pytest.raises(Unavailable, match="Received: database is locked"), writing(engine):
        pass


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


def test_processes_may_start_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    for steps in (SCHEMA - 1, SCHEMA):  # an empty database, then one that needs a step
        barrier = context.Barrier(2)
        processes = [context.Process(target=_migrate_at_once, args=(url_of(tmp_path), steps, barrier)) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0, 0]
        assert number(create_engine(url_of(tmp_path))) == [1 + steps]


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://host/name", "postgresql+nodriver://host/name", "no url"])
def test_a_url_that_cannot_hold_the_record_is_refused(url: str) -> None:
    with pytest.raises(BadSettings, match=r"Expected .* Received: ") as refusal:
        create_engine(url)
    assert "CATDOG_DATABASE_URL" in refusal.value.remedy


def test_a_refusal_does_not_tell_the_password() -> None:
    for url in ("mysql://user:hush@host/name", "postgresql//user:hush@host"):
        with pytest.raises(BadSettings) as refusal:
            create_engine(url)
        assert "hush" not in str(refusal.value)


def test_a_file_that_is_no_database_and_a_missing_folder_are_bad_settings(tmp_path: Path) -> None:
    (tmp_path / "catdog.sqlite").write_bytes(b"not a database, but long enough to be read as one" * 100)
    with pytest.raises(BadSettings, match="not a database"):
        migrate(create_engine(url_of(tmp_path)))
    with pytest.raises(BadSettings, match="unable to open"):
        migrate(create_engine(url_of(tmp_path / "nowhere")))


def test_somebody_elses_database_is_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "catdog.sqlite") as foreign:
        foreign.execute("CREATE TABLE models (name TEXT)")
    with pytest.raises(BadSettings, match="models already exists"):
        migrate(create_engine(url_of(tmp_path)))
    assert foreign.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall() == [("models",)]
    foreign.close()


def test_the_tables_are_also_right_for_postgresql() -> None:
    dialect: Dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    statements = "".join(str(CreateTable(table).compile(dialect=dialect)) for table in metadata.sorted_tables)
    assert statements.count("BIGSERIAL") == 3
