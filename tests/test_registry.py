"""Publishing is one transaction of a live lease; aliases and their history."""

from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import StatementError

from catdog.database import create_engine, migrate, reading
from catdog.errors import NotFound
from catdog.jobs import Claim, JobState, JobStore
from catdog.process import Identity
from catdog.registry import Model, Registry

OWNER = Identity("host", "boot", "pid:[1]", 1, 1.0)


class House:
    """A store and a registry on one new database."""

    def __init__(self, folder: Path) -> None:
        self.engine = create_engine(f"sqlite:///{folder / 'catdog.sqlite'}")
        migrate(self.engine)
        self.store = JobStore(self.engine)
        self.registry = Registry(self.engine)

    def claim(self) -> Claim:
        job, _ = self.store.create({})
        claim = self.store.claim(job.id, OWNER)
        assert claim is not None
        return claim

    def publish(self, claim: Claim, *, promote: str = "auto", alias: str = "champion", accuracy: float = 0.985) -> Model | None:
        return self.registry.publish(
            claim, digest="ab" * 32, labels=["cat", "dog"], metrics={"test_accuracy": accuracy}, alias=alias,
            promote="auto" if promote == "auto" else "never", result={"epochs": 3},
        )

    def rows(self) -> list[int]:
        with reading(self.engine) as connection:
            return [connection.scalar(text(f"SELECT count(*) FROM {table}")) or 0 for table in ("models", "aliases", "events")]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_publishing_ends_the_job_and_moves_the_alias(house: House) -> None:
    claim = house.claim()
    model = house.publish(claim)
    assert model is not None
    job = house.store.get(claim.job_id)
    assert (job.state, job.model, job.result, job.error) == (JobState.SUCCEEDED, 1, {"epochs": 3}, None)
    assert job.finished is not None
    assert model == house.registry.get(1)
    assert (model.version, model.job_id, model.digest) == (1, claim.job_id, "ab" * 32)
    assert (model.labels, model.metrics) == (["cat", "dog"], {"test_accuracy": 0.985})
    assert house.registry.aliases() == {"champion": 1}
    assert [(move.version, move.reason) for move in house.registry.history("champion")] == [(1, f"published by {claim.job_id}")]
    assert house.store.events(claim.job_id)[-1].data == {"from": "running", "to": "succeeded", "actor": "worker"}


def test_the_newest_success_takes_the_alias_and_never_means_never(house: House) -> None:
    house.publish(house.claim(), promote="never")
    assert house.registry.aliases() == {}
    house.publish(house.claim())
    house.publish(house.claim())
    house.publish(house.claim(), promote="never")
    assert house.registry.aliases() == {"champion": 3}
    assert [model.version for model in house.registry.list()] == [4, 3, 2, 1]


def test_a_stale_fence_publishes_nothing(house: House) -> None:
    stale = house.claim()
    house.store.release(stale, counted=False)
    fresh = house.store.claim(stale.job_id, OWNER)
    assert fresh is not None
    before = house.rows()
    assert house.publish(stale) is None
    assert house.rows() == before
    assert house.publish(fresh) is not None
    assert house.publish(fresh) is None
    assert house.rows()[0] == 1


def test_publishing_is_all_or_nothing(house: House) -> None:
    claim = house.claim()
    before = house.rows()
    with pytest.raises(StatementError, match="not JSON compliant"):  # the row of the model cannot be written
        house.publish(claim, accuracy=float("nan"))
    assert house.rows() == before
    assert house.store.get(claim.job_id).state is JobState.RUNNING
    model = house.publish(claim)
    assert model is not None
    assert model.version == 1


def test_an_alias_moves_with_its_reason(house: House) -> None:
    house.publish(house.claim())
    house.publish(house.claim())
    house.publish(house.claim(), alias="shadow")
    house.registry.set_alias("champion", 1, "rolled back")
    house.registry.set_alias("champion", 1, "again")
    assert house.registry.aliases() == {"champion": 1, "shadow": 3}
    assert [(move.version, move.reason) for move in house.registry.history("champion")][:1] == [(1, "rolled back")]
    assert [move.version for move in house.registry.history("champion")] == [1, 2, 1]


def test_unknown_versions_and_aliases_are_not_found(house: House) -> None:
    with pytest.raises(NotFound, match="Received: 7"):
        house.registry.get(7)
    with pytest.raises(NotFound, match="Received: 7"):
        house.registry.set_alias("champion", 7, "why not")
    with pytest.raises(NotFound, match="Received: 'champion'"):
        house.registry.history("champion")
    assert house.registry.aliases() == {}
