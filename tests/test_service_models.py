"""/v1/models over HTTP: the gate in front of an alias, the job that compares, history, and going back."""

import os
from pathlib import Path
from typing import Any

import pytest

from catdog.comparison import Comparison
from catdog.datasets import Dataset
from catdog.process import Identity
from tests.rivals import make_rival, pictures_of_red_and_green
from tests.serving import Service, is_problem, publish_digest

pytest_plugins = ["tests.service_fixtures"]

BETTER, WORSE = Comparison(90, 5, 3, 2), Comparison(90, 0, 9, 1)


class Town:
    """A service with a data set and versions that were tested on it; the first is the champion."""

    def __init__(self, service: Service, folder: Path, *, versions: int) -> None:
        self.service, self.registry = service, service.parts.registry
        self.dataset: Dataset = pictures_of_red_and_green(folder, service.settings, test=60)
        for number in range(versions):
            digest = make_rival(service.settings, self.dataset, gain=8.0 + number)
            publish_digest(service.parts.jobs, self.registry, digest, promote="never" if number else "auto")

    def compare(self, version: int, comparison: Comparison, **query: Any) -> str:
        """POST the comparison and do what a worker would; returns the job's id."""
        response = self.service.client.post(f"/v1/models/{version}/compare", params=query)
        assert response.status_code == 202, response.text
        job = response.json()
        claim = self.service.parts.jobs.claim(job["id"], Identity.of(os.getpid()))
        assert claim is not None and self.registry.compared(claim, comparison)
        return str(job["id"])

    def put(self, **target: Any) -> Any:
        return self.service.client.put("/v1/models/aliases/champion", json=target)


@pytest.fixture
def town(service: Service, tmp_path: Path) -> Town:
    return Town(service, tmp_path / "pictures", versions=3)


def test_a_challenger_is_compared_first_and_then_takes_the_alias(town: Town) -> None:
    town.service.wait_until_served(1)
    refused = is_problem(town.put(version=2), 409, "compare_first")
    assert refused["comparison"] is None and "/compare" in refused["remedy"]
    job_id = town.compare(2, BETTER)
    moved = town.put(version=2, reason="sees foxes").json()
    assert (moved["version"], moved["how"], moved["reason"]) == (2, "compared", "sees foxes")
    assert moved["comparison"] == BETTER.to_dict() | {"job_id": job_id, "champion": 1}
    town.service.wait_until_served(2)
    history = town.service.client.get("/v1/models/aliases/champion/history").json()["items"]
    assert history[0] == moved and [move["how"] for move in history] == ["compared", "first"]


def test_a_worse_challenger_is_refused_with_figures_and_a_forced_one_recorded_and_one_call_goes_back(town: Town) -> None:
    town.compare(2, WORSE)
    refused = is_problem(town.put(version=2), 409, "not_promoted")
    assert refused["comparison"] == WORSE.to_dict() | {"champion": 1}
    assert all(figure in refused["detail"] for figure in ("0.9000", "0.9900", "100 pictures", "p = 0.002")), refused["detail"]
    assert town.registry.aliases() == {"champion": 1}
    forced = town.put(version=2, force=True, reason="for the demonstration").json()
    assert forced["how"] == "forced" and forced["comparison"]["p_value"] == WORSE.p_value
    town.service.wait_until_served(2)
    back = town.service.client.post("/v1/models/aliases/champion/rollback", json={"reason": "it is over"}).json()
    assert (back["version"], back["how"], back["reason"]) == (1, "rollback", "it is over")
    town.service.wait_until_served(1)
    is_problem(town.service.client.post("/v1/models/aliases/champion/rollback"), 409, "conflict")
    is_problem(town.service.client.post("/v1/models/aliases/nobody/rollback"), 404, "not_found")
    assert [move["how"] for move in town.service.client.get("/v1/models/aliases/champion/history").json()["items"]] == [
        "rollback", "forced", "first",
    ]


def test_a_comparison_with_who_was_champion_before_is_not_enough(town: Town) -> None:
    town.compare(2, BETTER)
    town.compare(3, BETTER)
    assert town.put(version=2).status_code == 200
    refused = is_problem(town.put(version=3), 409, "compare_first")
    assert "version 2" in refused["detail"]
    town.compare(3, BETTER)
    assert town.put(version=3).json()["comparison"]["champion"] == 2


def test_what_does_not_repeat_its_golden_answers_here_cannot_even_be_forced(town: Town) -> None:
    golden = town.service.settings.models / town.registry.get(2).digest / "golden"
    (golden / "0.image").write_bytes((golden / "1.image").read_bytes())
    town.compare(2, BETTER)
    for force in (False, True):
        is_problem(town.put(version=2, force=force), 409, "not_promoted")
    assert town.registry.aliases() == {"champion": 1}
    is_problem(town.put(version=99, force=True), 404, "not_found")


def test_a_comparison_is_a_job_that_holds_its_data_set(town: Town) -> None:
    client = town.service.client
    post = "/v1/models/2/compare"
    first = client.post(post, headers={"Idempotency-Key": "once"})
    again = client.post(post, headers={"Idempotency-Key": "once"})
    assert (first.status_code, again.status_code) == (202, 200) and first.json()["id"] == again.json()["id"]
    job = first.json()
    assert (job["kind"], job["config"]) == ("compare", {"dataset": town.dataset.id, "challenger": 2, "champion": 1})
    assert first.headers["location"] == job["links"]["self"] and "doctor" not in job["links"]
    is_problem(client.delete(f"/v1/datasets/{town.dataset.id}"), 409, "conflict")
    for action in ("resume", "clone"):
        is_problem(client.post(f"{job['links']['self']}/{action}"), 409, "conflict")
    assert client.post(job["links"]["cancel"]).status_code == 200
    assert client.delete(f"/v1/datasets/{town.dataset.id}").status_code == 204
    gone = is_problem(client.post(post), 409, "conflict")
    assert town.dataset.id in gone["detail"]
    is_problem(client.post("/v1/models/1/compare"), 409, "conflict")  # with itself
    is_problem(client.post(post, params={"alias": "nobody"}), 409, "conflict")
    is_problem(client.post("/v1/models/nobody/compare"), 404, "not_found")
