"""Fixtures of the service's tests; a module asks for them with pytest_plugins."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from catdog.settings import Settings
from tests.serving import Service


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with a data folder of their own, and quick."""
    made = Settings.load(data_dir=tmp_path / "data", decoders=1, sweep_seconds=0.05)
    made.make_folders()
    return made


@pytest.fixture
def serve() -> Iterator[Callable[[Settings], Service]]:
    """Start services; they are stopped at the end of the test."""
    running: list[Service] = []

    def start(settings: Settings) -> Service:
        running.append(Service(settings))
        return running[-1]

    yield start
    for service in running:
        service.stop()


@pytest.fixture
def service(settings: Settings, serve: Callable[[Settings], Service]) -> Service:
    """A service of this test alone."""
    return serve(settings)


@pytest.fixture(scope="module")
def shared_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service for every test of a module that leaves nothing behind."""
    root = tmp_path_factory.mktemp("service")
    made = Settings.load(data_dir=root / "data", decoders=1, sweep_seconds=0.05)
    running = Service(made)
    yield running
    running.stop()
    shutil.rmtree(root)
