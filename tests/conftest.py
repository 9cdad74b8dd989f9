"""Fixtures that every test may use: the shared photographs, a clean environment, one living stack."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.living import LiveStack

ROOT = Path(__file__).parent.parent
CI = os.environ.get("CI") == "true"


def missing(what: str) -> None:
    """Skip here; fail where CI=true, because there every real part is promised."""
    if CI:
        pytest.fail(f"{what} is missing, and CI=true promises it")
    pytest.skip(f"{what} is missing")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No CATDOG_* variable of the person who runs the tests leaks into them."""
    for name in os.environ:
        if name.startswith("CATDOG_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def shared_data() -> Callable[..., Path]:
    """The shared test data: shared_data("dogs_vs_cats", "test") -> Path."""

    def path(*parts: str) -> Path:
        found = ROOT.parent.joinpath("shared", "data", *parts)
        if not found.exists():
            missing("/".join(("../shared/data", *parts)))
        return found

    return path


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveStack]:
    """One living stack for every test that needs no other: real redis-server, worker and service."""
    with LiveStack(tmp_path_factory.mktemp("stack"), lease_seconds=6, heartbeat_seconds=1, sweep_seconds=1) as living:
        yield living
