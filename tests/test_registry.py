"""Publishing is one transaction of a live lease; aliases and their history."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import StatementError

from catdog.comparison import Comparison
from catdog.database import reading
from catdog.errors import CompareFirst, Conflict, NotComparable, NotFound, NotPromoted
from catdog.jobs import Claim, JobState, JobStore
from catdog.process import Identity
from catdog.registry import Model, Registry

OWNER = Identity("host", "boot", "pid:[1]", 1, 1.0)
BETTER, WORSE, FEW = Comparison(190, 6, 2, 2), Comparison(180, 2, 12, 6), Comparison(40, 0, 0, 1)


class House:
    """A store and a registry on one new database."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.store = JobStore(self.engine)
        self.registry = Registry(self.engine)

    def claim(self, kind: str = "train", **config: Any) -> Claim:
        job, _ = self.store.create(config, kind=kind)
        claim = self.store.claim(job.id, OWNER)
        assert claim is not None
        return claim

    def publish(
        self, claim: Claim, *, promote: str = "auto", alias: str = "champion", accuracy: float = 0.985,
        labels: tuple[str, ...] = ("cat", "dog"), comparison: Comparison | None = None, champion: int | None = None,
    ) -> Model | None:
        """`champion` is the version that the run compared its package with."""
        compared = {} if comparison is None else {"comparison": comparison.to_dict() | {"champion_digest": f"{champion or 0:064}"}}
        return self.registry.publish(
            claim, digest=f"{len(self.registry.list()) + 1:064}", labels=labels, metrics={"test_accuracy": accuracy}, alias=alias,
            promote="auto" if promote == "auto" else "never", result={"epochs": 3} | compared,
        )

    def compare(self, challenger: int, champion: int, comparison: Comparison) -> str:
        """The id of a job that has compared two versions."""
        claim = self.claim("compare", challenger=challenger, champion=champion)
        assert self.registry.compared(claim, comparison)
        return claim.job_id

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
    assert (model.version, model.job_id, model.digest) == (1, claim.job_id, f"{1:064}")
    assert (model.labels, model.metrics) == (["cat", "dog"], {"test_accuracy": 0.985})
    assert house.registry.aliases() == {"champion": 1}
    assert [(move.version, move.reason) for move in house.registry.history("champion")] == [(1, f"published by {claim.job_id}")]
    assert house.store.events(claim.job_id)[-1].data == {"from": "running", "to": "succeeded", "actor": "worker"}


def test_never_means_never_even_where_there_is_no_champion(house: House) -> None:
    house.publish(house.claim(), promote="never")
    assert house.registry.aliases() == {}
    house.publish(house.claim())
    house.publish(house.claim(), promote="never", comparison=BETTER, champion=2)
    assert house.registry.aliases() == {"champion": 2}
    assert [model.version for model in house.registry.list()] == [3, 2, 1]


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


def test_a_challenger_that_is_no_worse_takes_the_alias_with_its_evidence(house: House) -> None:
    house.publish(house.claim())
    claim = house.claim()
    house.publish(claim, comparison=BETTER, champion=1)
    assert house.registry.aliases() == {"champion": 2}
    newest, first = house.registry.history("champion")
    assert (newest.how, newest.comparison) == ("compared", BETTER.to_dict() | {"job_id": claim.job_id, "champion": 1})
    assert (first.how, first.comparison) == ("first", None)


def test_a_worse_challenger_is_a_version_and_no_champion_and_its_job_says_why(house: House) -> None:
    house.publish(house.claim())
    claim = house.claim()
    model = house.publish(claim, comparison=WORSE, champion=1)
    assert model is not None and model.version == 2 and house.registry.aliases() == {"champion": 1}
    job = house.store.get(claim.job_id)
    assert job.state is JobState.SUCCEEDED and job.result is not None
    said = job.result["promotion"]
    assert (said["promoted"], said["champion"], said["code"]) == (False, 1, "not_promoted")
    assert all(figure in said["message"] for figure in ("accuracy 0.9100 against 0.9600", "200 pictures", "p = 0.0065")), said
    with pytest.raises(NotPromoted, match=r"0\.9100 against 0\.9600 .* p = 0\.0065") as refused:
        house.registry.set_alias("champion", 2, "try again")
    assert refused.value.comparison == WORSE.to_dict() | {"champion": 1}
    assert refused.value.code == "not_promoted" and "force" in refused.value.remedy


def test_what_is_forced_is_recorded_and_only_that(house: House) -> None:
    for comparison in (None, WORSE, BETTER):
        house.publish(house.claim(), promote="never", comparison=comparison, champion=1 if comparison else None)
    house.registry.set_alias("champion", 1, "to begin with", force=True)
    house.compare(2, 1, WORSE)
    move = house.registry.set_alias("champion", 2, "we know better", force=True)
    assert (move.version, move.how, move.reason) == (2, "forced", "we know better")
    assert move.comparison is not None and move.comparison["verdict"] == "worse" and move.comparison["p_value"] == WORSE.p_value
    house.compare(3, 2, BETTER)
    house.registry.set_alias("champion", 3, "better anyway", force=True)
    assert [move.how for move in house.registry.history("champion")] == ["compared", "forced", "first"]


def test_a_champion_that_changed_since_is_compared_with_first(house: House) -> None:
    """Two trainings began under version 1; the second to end has been compared with it, and not with the first to end."""
    house.publish(house.claim())
    late = house.claim()
    house.publish(house.claim(), comparison=BETTER, champion=1)
    model = house.publish(late, comparison=BETTER, champion=1)
    assert model is not None and house.registry.aliases() == {"champion": 2}
    result = house.store.get(late.job_id).result
    assert result is not None and result["promotion"]["code"] == "compare_first" and "/compare" in result["promotion"]["remedy"]
    with pytest.raises(CompareFirst, match="comparison with version 2"):
        house.registry.set_alias("champion", 3, "now")
    job_id = house.compare(3, 2, BETTER)
    move = house.registry.set_alias("champion", 3, "now")
    assert move.how == "compared" and move.comparison is not None and move.comparison["job_id"] == job_id


def test_the_newest_comparison_counts_and_only_of_these_two(house: House) -> None:
    for _ in range(3):
        house.publish(house.claim(), promote="never")
    house.registry.set_alias("champion", 1, "first")
    house.compare(1, 2, BETTER)  # the other way round
    house.compare(2, 3, BETTER)  # with another
    house.compare(3, 1, BETTER)
    with pytest.raises(CompareFirst):
        house.registry.set_alias("champion", 2, "now")
    house.compare(2, 1, BETTER)
    house.compare(2, 1, WORSE)
    with pytest.raises(NotPromoted):
        house.registry.set_alias("champion", 2, "now")
    house.compare(2, 1, FEW)
    with pytest.raises(NotComparable, match="41 pictures"):
        house.registry.set_alias("champion", 2, "now")
    house.compare(2, 1, BETTER)
    assert house.registry.set_alias("champion", 2, "now").version == 2


@pytest.mark.parametrize("labels", [("dog", "cat"), ("cat", "dog", "hamster"), ("cat", "kitten")])
def test_other_labels_or_another_order_are_refused_however_good(house: House, labels: tuple[str, ...]) -> None:
    house.publish(house.claim())
    claim = house.claim()
    house.publish(claim, labels=labels, comparison=BETTER, champion=1)
    result = house.store.get(claim.job_id).result
    assert result is not None and result["promotion"]["code"] == "not_promoted" and "in this order" in result["promotion"]["message"]
    with pytest.raises(NotPromoted, match="in this order"):
        house.registry.set_alias("champion", 2, "now")
    assert house.registry.set_alias("champion", 2, "a third animal", force=True).how == "forced"


def test_one_call_goes_back_and_a_second_one_further(house: House) -> None:
    for champion in (None, 1, 2):
        house.publish(house.claim(), comparison=BETTER, champion=champion)
    assert house.registry.before("champion") == 2
    with pytest.raises(Conflict, match=r"to version 1\..*goes back to 2"):  # somebody else was quicker
        house.registry.roll_back("champion", "it confuses foxes", to=1)
    assert house.registry.roll_back("champion", "it confuses foxes", to=2).version == 2
    assert house.registry.roll_back("champion", "and this one too", to=1).version == 1
    with pytest.raises(Conflict, match="a version before the present one"):
        house.registry.roll_back("champion", "and further?", to=1)
    house.registry.set_alias("champion", 3, "mended", force=True)
    move = house.registry.roll_back("champion", "not mended", to=1)
    assert (move.version, move.how, move.reason, move.comparison) == (1, "rollback", "not mended", None)
    assert [move.version for move in house.registry.history("champion")] == [1, 3, 1, 2, 3, 2, 1]
    with pytest.raises(NotFound):
        house.registry.roll_back("nobody", "why not", to=1)


def test_an_alias_that_points_there_already_is_left_alone(house: House) -> None:
    house.publish(house.claim())
    house.publish(house.claim(), alias="shadow")
    assert house.registry.set_alias("champion", 1, "again").how == "first"
    assert house.registry.aliases() == {"champion": 1, "shadow": 2}
    assert len(house.registry.history("champion")) == 1


def test_a_comparison_without_its_lease_is_not_kept(house: House) -> None:
    for champion in (None, 1):
        house.publish(house.claim(), promote="never" if champion else "auto")
    stale = house.claim("compare", challenger=2, champion=1)
    house.store.release(stale, counted=False)
    fresh = house.store.claim(stale.job_id, OWNER)
    assert fresh is not None
    with pytest.raises(ValueError, match="nothing else is kept"):
        house.store.finish(fresh, state=JobState.SUCCEEDED)
    assert not house.registry.compared(stale, BETTER)
    with pytest.raises(CompareFirst):
        house.registry.set_alias("champion", 2, "now")
    assert house.registry.compared(fresh, BETTER)
    job = house.store.get(fresh.job_id)
    assert job.state is JobState.SUCCEEDED and job.result == {"comparison": BETTER.to_dict()} and job.model is None
    assert house.registry.set_alias("champion", 2, "now").how == "compared"


def test_unknown_versions_and_aliases_are_not_found(house: House) -> None:
    with pytest.raises(NotFound, match="Received: 7"):
        house.registry.get(7)
    with pytest.raises(NotFound, match="Received: 7"):
        house.registry.set_alias("champion", 7, "why not")
    with pytest.raises(NotFound, match="Received: 'champion'"):
        house.registry.history("champion")
    assert house.registry.aliases() == {}


def test_versions_and_moves_made_at_once_are_in_one_order(house: House) -> None:
    """Every one was compared with the first champion: only one of them may take its place."""
    house.publish(house.claim())
    claims = [house.claim() for _ in range(16)]
    with ThreadPoolExecutor(8) as pool:
        published = list(pool.map(lambda claim: house.publish(claim, comparison=BETTER, champion=1), claims))
        list(pool.map(lambda _: house.registry.set_alias("shadow", 1, "once"), range(8)))
    assert sorted(model.version for model in published if model) == list(range(2, 18))
    assert [move.how for move in house.registry.history("champion")] == ["compared", "first"]
    promotions = [(house.store.get(claim.job_id).result or {})["promotion"] for claim in claims]
    assert sorted(said.get("code", "") for said in promotions) == ["", *["compare_first"] * 15]
    assert len(house.registry.history("shadow")) == 1
