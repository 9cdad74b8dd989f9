"""catdog models versions | promote | rollback | history: the registry of this machine without a service."""

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from catdog.cli import app
from catdog.comparison import Comparison
from catdog.database import create_engine, migrate
from catdog.errors import CorruptPackage, NoModel, NotPromoted
from catdog.jobs import JobStore
from catdog.process import Identity
from catdog.registry import Registry
from catdog.settings import Settings
from tests.serving import make_package, publish_digest

pytest_plugins = ["tests.service_fixtures"]


@pytest.fixture
def registry(settings: Settings) -> Registry:
    """Two versions, of which the first is the champion."""
    engine = create_engine(settings.database)
    migrate(engine)
    made = Registry(engine)
    for promote, gain in (("auto", 8.0), ("never", 9.0)):
        publish_digest(JobStore(engine), made, make_package(settings.models, gain=gain), promote=promote)
    return made


def printed(settings: Settings, *arguments: str) -> str:
    """What `catdog models ARGUMENTS` prints; its error is raised."""
    return CliRunner(env=settings.environment() | {"COLUMNS": "200"}).invoke(app, ["models", *arguments], catch_exceptions=False).stdout


def test_an_alias_is_moved_through_the_gate_and_back(settings: Settings, registry: Registry) -> None:
    with pytest.raises(NotPromoted, match="Expected a comparison with version 1"):
        printed(settings, "promote", "2")
    jobs = JobStore(create_engine(settings.database))
    claim = jobs.claim(jobs.create({"challenger": 2, "champion": 1}, kind="compare")[0].id, Identity.of(os.getpid()))
    assert claim is not None and registry.compared(claim, Comparison(90, 0, 9, 1))
    with pytest.raises(NotPromoted, match=r"0\.9000 against 0\.9900"):
        printed(settings, "promote", "2")
    forced = printed(settings, "promote", "2", "--force", "--reason", "tried out")
    assert "version 2, forced, accuracy 0.9000 against 0.9900 of version 1 on 100 pictures, p = 0.002 (tried out)" in forced
    assert registry.aliases() == {"champion": 2}
    assert "version 1, rollback (rolled back)" in printed(settings, "rollback")
    assert [line.split()[3].strip(",") for line in printed(settings, "history").splitlines()] == ["1", "2", "1"]
    assert "cat, dog" in printed(settings, "versions")


def test_what_does_not_answer_as_it_was_made_to_is_not_promoted(settings: Settings, registry: Registry) -> None:
    (settings.models / registry.get(2).digest / "model.onnx").write_bytes(b"")
    with pytest.raises(CorruptPackage):
        printed(settings, "promote", "2", "--force")
    assert registry.aliases() == {"champion": 1}


def test_where_nothing_was_published_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(NoModel):
        printed(Settings.load(data_dir=tmp_path / "nowhere"), "versions")
