"""Fixtures that every test may use: the shared photographs, one PostgreSQL, one living stack, one finished run."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from catdog.database import create_engine, migrate
from catdog.settings import Settings
from tests.living import FAST_JOB, Finished, LiveStack, command_line
from tests.postgres import Postgres, binaries

ROOT = Path(__file__).parent.parent
CI = os.environ.get("CI") == "true"


def missing(what: str) -> None:
    """Skip here; fail where CI=true, because there every real part is promised."""
    if CI:
        pytest.fail(f"{what} is missing, and CI=true promises it")
    pytest.skip(f"{what} is missing")


for _name in [name for name in os.environ if name.startswith("CATDOG_")]:
    del os.environ[_name]  # before any fixture, so that no live stack ever meets the database of the person who runs the tests


@pytest.fixture(scope="session")
def shared_data() -> Callable[..., Path]:
    """The shared test data: shared_data("dogs_vs_cats", "test") -> Path."""

    def path(*parts: str) -> Path:
        found = ROOT.parent.joinpath("shared", "data", *parts)
        if not found.exists():
            missing("/".join(("../shared/data", *parts)))
        return found

    return path


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For tests of the smallest tensors: a second thread does not pay there, and on a busy machine every operation waits for it."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One PostgreSQL server for every test."""
    programs = binaries()
    if programs is None:
        missing("PostgreSQL")
    else:
        with Postgres(programs) as running:
            yield running


@pytest.fixture
def postgresql_url(postgres: Postgres) -> Iterator[str]:
    """A new PostgreSQL database."""
    with postgres.database() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new database of each kind in turn: a test of the job record that asks for it runs on both."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'catdog.sqlite'}"
    url: str = request.getfixturevalue("postgresql_url")
    return url


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """The job record in a new database of each kind."""
    engine = create_engine(database_url)
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveStack]:
    """One living stack for every test that needs no other: real redis-server, worker and service."""
    with LiveStack(tmp_path_factory.mktemp("stack"), lease_seconds=6, heartbeat_seconds=1, sweep_seconds=1) as living:
        yield living


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run that the command line has finished, on drawn pictures: `catdog data draw`, then `catdog train`."""
    folder = tmp_path_factory.mktemp("finished")
    settings = Settings.load(data_dir=folder / "data")
    drawn = command_line("data", "draw", str(folder / "pictures"), "--count", "40", "--size", "64", settings=settings)
    assert drawn.returncode == 0, drawn.stderr
    fields = {**FAST_JOB, "epochs": 3}
    assignments = [part for name, value in fields.items() for part in ("--set", f"{name}={value}")]
    done = command_line("train", "--data", str(folder / "pictures"), "--run", str(folder / "run"), *assignments, settings=settings)
    assert done.returncode == 0, done.stderr
    return Finished(settings, folder / "pictures", folder / "run", done.stdout)
