"""Publishing is one transaction of a live lease; aliases and their history."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import StatementError

from catdog.database import reading
from catdog.errors import NotFound
from catdog.jobs import Claim, JobState, JobStore
from catdog.process import Identity
from catdog.registry import Model, Registry

OWNER = Identity("host", "boot", "pid:[1]", 1, 1.0)


class House:
    """A store and a registry on one new database."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
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
def house(engine: Engine) -> House:
    return House(engine)


def test_publishing_ends_the_job_and_moves_the_alias(house: House) -> None:
    claim = house.claim()
    model = house.publish(claim)
    assert model is not None
    job = house.store.get(claim.job_id)
    promotion = {"alias": "champion", "promoted": True, "champion": None}
    assert (job.state, job.model, job.result, job.error) == (JobState.SUCCEEDED, 1, {"epochs": 3, "promotion": promotion}, None)
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
    with pytest.raises((StatementError, ValueError), match="not JSON compliant"):  # the row of the model cannot be written
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


def test_versions_and_moves_made_at_once_are_in_one_order(house: House) -> None:
    claims = [house.claim() for _ in range(16)]
    with ThreadPoolExecutor(8) as pool:
        published = list(pool.map(house.publish, claims))
        list(pool.map(lambda _: house.registry.set_alias("shadow", 1, "once"), range(8)))
    assert sorted(model.version for model in published if model) == list(range(1, 17))
    assert [move.version for move in house.registry.history("champion")] == list(range(16, 0, -1))
    assert len(house.registry.history("shadow")) == 1
