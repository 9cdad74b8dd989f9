"""service/routes/successors.py: a job that goes on from another, or begins with its config; what cannot, says why."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from catdog.config import TrainConfig
from catdog.datasets import Dataset
from catdog.jobs import Job, JobState
from catdog.process import Identity
from catdog.registry import Registry
from catdog.sources import draw, import_folder
from tests.serving import Service, is_problem

pytest_plugins = ("tests.service_fixtures",)

FAILED = {"code": "time_limit", "message": "m", "remedy": "r"}


@pytest.fixture(scope="module")
def dataset(shared_service: Service, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    pictures = tmp_path_factory.mktemp("pictures")
    draw(pictures, count=40, size=32)
    return import_folder(pictures, shared_service.settings.datasets, settings=shared_service.settings)


class Scene:
    """A service with jobs in every state."""

    def __init__(self, service: Service, dataset: Dataset) -> None:
        self.service, self.client, self.jobs = service, service.client, service.parts.jobs
        fields = {"dataset": dataset.id, "model": "resnet18", "weights": "none", "image_size": 32, "epochs": 10}
        self.fields = fields | {"batch_size": 8, "publish": {"alias": "beta"}}

    def job(self, state: JobState, *, kind: str = "train", checkpoint: bool = True, stop_reason: str | None = None, **fields: Any) -> Job:
        """A job that came to this state, with or without a checkpoint."""
        job = self.jobs.create(TrainConfig.parse(self.fields | fields).model_dump(mode="json"), kind=kind)[0]
        if checkpoint:
            self.leave(job.id)
        if state is JobState.QUEUED:
            return job
        claim = self.jobs.claim(job.id, Identity.of(os.getpid()))
        assert claim is not None
        result = {"stop_reason": stop_reason} if stop_reason else {}
        if state is JobState.SUCCEEDED and kind == "train":
            registry: Registry = self.service.parts.registry
            registry.publish(claim, digest=job.id, labels=["cat", "dog"], metrics={}, alias="beta", promote="never", result=result)
        elif state is not JobState.RUNNING:
            self.jobs.finish(claim, state=state, error=FAILED if state is JobState.FAILED else None)
        return self.jobs.get(job.id)

    def leave(self, job: str, name: str = "step-0000004") -> Path:
        """A manifest: the service looks at no more, and the run at every byte."""
        path = self.service.settings.runs / job / "checkpoints" / "1" / name / "MANIFEST.json"
        path.parent.mkdir(parents=True)
        path.write_text("{}")
        return path

    def post(self, job: Job, what: str, changes: Any = None, **headers: str) -> Any:
        return self.client.post(f"/v1/jobs/{job.id}/{what}", json=changes, headers=headers)

    def count(self) -> int:
        return len(self.jobs.list(limit=200))


@pytest.fixture
def scene(shared_service: Service, dataset: Dataset) -> Scene:
    return Scene(shared_service, dataset)


@pytest.mark.parametrize("state", [JobState.CANCELLED, JobState.FAILED])
@pytest.mark.parametrize("changes", [None, {}, {"epochs": 60, "learning_rate": 1e-4}])
def test_a_job_that_ended_too_early_is_gone_on_from(scene: Scene, state: JobState, changes: dict[str, Any] | None) -> None:
    old = scene.job(state)
    response = scene.post(old, "resume", changes)
    new = response.json()
    assert response.status_code == 202 and (new["state"], new["kind"], new["resumed_from"]) == ("queued", "train", old.id)
    assert response.headers["location"] == new["links"]["self"] == f"/v1/jobs/{new['id']}" and response.headers["retry-after"]
    assert new["links"]["resumed_from"] == f"/v1/jobs/{old.id}" and new["links"]["resume"] == f"/v1/jobs/{new['id']}/resume"
    assert new["config"] == old.config | (changes or {})
    assert scene.jobs.get(new["id"]).resumed_from == old.id and scene.jobs.get(old.id) == old


def test_a_resumed_job_is_handed_to_a_worker(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    woken: list[str] = []
    monkeypatch.setattr(scene.service.parts.reconciler, "wake", woken.append)
    answers = [scene.post(scene.job(JobState.FAILED), what).json()["id"] for what in ("resume", "clone")]
    assert woken == answers


def test_an_empty_body_changes_nothing(scene: Scene) -> None:
    old = scene.job(JobState.FAILED)
    for headers in ({}, {"Content-Type": "application/json"}):
        response = scene.client.post(f"/v1/jobs/{old.id}/resume", content=b"", headers=headers)
        assert response.status_code == 202 and response.json()["config"] == old.config


def test_an_alias_outlives_a_change_of_its_promotion_and_null_is_a_default(scene: Scene) -> None:
    old = scene.job(JobState.FAILED, max_minutes=5)
    changes = {"publish": {"promote": "never"}, "max_minutes": None, "learning_rate": None}
    for what in ("resume", "clone"):
        config = scene.post(old, what, changes).json()["config"]
        assert config["publish"] == {"alias": "beta", "promote": "never"}
        assert (config["max_minutes"], config["learning_rate"]) == (None, 3e-4)


@pytest.mark.parametrize(("state", "options", "remedy"), [
    (JobState.QUEUED, {}, "Cancel it with POST /v1/jobs/{id}/cancel, or wait"),
    (JobState.RUNNING, {}, "Cancel it with POST /v1/jobs/{id}/cancel, or wait"),
    (JobState.FAILED, {"checkpoint": False}, "POST /v1/jobs/{id}/clone"),
    (JobState.CANCELLED, {"checkpoint": False}, "POST /v1/jobs/{id}/clone"),
    (JobState.SUCCEEDED, {"kind": "examine"}, "Clone it"),
    (JobState.SUCCEEDED, {}, "Send more epochs than 10."),
])
def test_what_cannot_be_gone_on_from_says_what_can_be_done(scene: Scene, state: JobState, options: dict[str, Any], remedy: str) -> None:
    old = scene.job(state, **options)
    before = scene.count()
    problem = is_problem(scene.post(old, "resume"), 409, "conflict")
    assert remedy.format(id=old.id) in problem["remedy"] and old.id in problem["detail"]
    assert scene.count() == before


def test_a_checkpoint_that_was_found_corrupt_or_never_became_whole_is_none(scene: Scene) -> None:
    old = scene.job(JobState.FAILED, checkpoint=False)
    scene.leave(old.id, "step-0000004.corrupt")
    (scene.leave(old.id)).unlink()
    is_problem(scene.post(old, "resume"), 409, "conflict")
    scene.leave(old.id, "step-0000008")
    assert scene.post(old, "resume").status_code == 202


@pytest.mark.parametrize(("stop_reason", "changes", "status"), [
    (None, {"epochs": 11}, 202),
    (None, {"epochs": 10}, 409),
    (None, {"epochs": 9}, 409),
    (None, {"max_minutes": 90, "patience": 5, "learning_rate": 1e-5}, 409),
    ("epochs", {"max_minutes": 90, "patience": 5}, 409),
    ("max_minutes", {"max_minutes": 90}, 202),
    ("max_minutes", {"max_minutes": None}, 202),
    ("max_minutes", {"max_minutes": 30}, 409),
    ("max_minutes", {"patience": 9}, 409),
    ("max_minutes", {"max_minutes": 20}, 409),
    ("max_minutes", {"epochs": 60}, 409),
    ("max_minutes", {"epochs": 60, "max_minutes": 90}, 202),
    ("patience", {"patience": 4}, 202),
    ("patience", {"patience": None}, 202),
    ("patience", {"patience": 3}, 409),
    ("patience", {"patience": 2}, 409),
    ("patience", {"epochs": 60, "max_minutes": 90}, 409),
])
def test_a_job_that_has_succeeded_needs_something_left_to_train(
    scene: Scene, stop_reason: str | None, changes: dict[str, Any], status: int,
) -> None:
    old = scene.job(JobState.SUCCEEDED, stop_reason=stop_reason, max_minutes=30, patience=3)
    response = scene.post(old, "resume", changes)
    assert response.status_code == status, response.text
    if status == 409:
        assert "left to train" in response.json()["detail"]
        assert response.json()["remedy"] == {
            "max_minutes": "Send max_minutes above 30.0, or null for no limit.", "patience": "Send patience above 3, or null for no limit.",
        }.get(stop_reason or "", "Send more epochs than 10.")


@pytest.mark.parametrize(("changes", "pointer"), [
    ({"epoch": 60}, "/epoch"), ({"epochs": 0}, "/epochs"), ({"epochs": "many"}, "/epochs"),
    ({"publish": {"alias": "UPPER"}}, "/publish/alias"),
    ({"seed": 1}, "/seed"), ({"model": "unet"}, "/model"), ({"batch_size": 4}, "/batch_size"), ({"dataset": "ds_" + "f" * 32}, "/dataset"),
])
def test_a_change_that_cannot_be_is_refused_by_its_field(scene: Scene, changes: dict[str, Any], pointer: str) -> None:
    old = scene.job(JobState.FAILED)
    before = scene.count()
    problem = is_problem(scene.post(old, "resume", changes), 422, "config")
    assert [wrong["pointer"] for wrong in problem["errors"]] == [pointer] and scene.count() == before


@pytest.mark.parametrize("what", ["resume", "clone"])
@pytest.mark.parametrize("body", [b"{", b"[]", b'"x"', b"7", b"\xff"])
def test_a_body_that_is_no_object_is_refused(scene: Scene, what: str, body: bytes) -> None:
    old = scene.job(JobState.FAILED)
    response = scene.client.post(f"/v1/jobs/{old.id}/{what}", content=body, headers={"Content-Type": "application/json"})
    is_problem(response, *((400, "bad_request") if body == b"\xff" else (422, "bad_input")))


@pytest.mark.parametrize("what", ["resume", "clone"])
def test_the_same_key_and_body_give_the_same_job_also_when_it_would_be_refused_now(scene: Scene, what: str, dataset: Dataset) -> None:
    old = scene.job(JobState.FAILED)
    key = f"{what}-{old.id}"
    first = scene.post(old, what, {"epochs": 20}, **{"Idempotency-Key": key})
    away = dataset.folder.with_name("away")
    dataset.folder.rename(away)
    shutil.rmtree(scene.service.settings.runs / old.id)
    try:
        second = scene.post(old, what, {"epochs": 20}, **{"Idempotency-Key": key})
        new_key = scene.post(old, what, {"epochs": 20}, **{"Idempotency-Key": f"{key}-2"})
    finally:
        away.rename(dataset.folder)
    assert (first.status_code, second.status_code) == (202, 200)
    assert second.json() == first.json() and second.headers["location"] == first.headers["location"]
    assert new_key.status_code == (409 if what == "resume" else 422)
    is_problem(scene.post(old, what, {"epochs": 21}, **{"Idempotency-Key": key}), 422, "bad_input")


def test_a_key_for_one_job_is_not_one_for_another(scene: Scene) -> None:
    one, other = scene.job(JobState.FAILED), scene.job(JobState.FAILED)
    assert scene.post(one, "resume", **{"Idempotency-Key": one.id}).status_code == 202
    for job, what in ((other, "resume"), (one, "clone")):
        is_problem(scene.post(job, what, **{"Idempotency-Key": one.id}), 422, "bad_input")


@pytest.mark.parametrize("what", ["resume", "clone"])
def test_a_data_set_that_has_gone_is_refused(scene: Scene, what: str, dataset: Dataset) -> None:
    old = scene.job(JobState.FAILED)
    away = dataset.folder.with_name("away")
    dataset.folder.rename(away)
    try:
        problem = is_problem(scene.post(old, what), 422, "config")
    finally:
        away.rename(dataset.folder)
    assert [wrong["pointer"] for wrong in problem["errors"]] == ["/dataset"]


@pytest.mark.parametrize("state", list(JobState))
def test_a_clone_of_any_job_begins_anew_and_says_what_is_different(scene: Scene, state: JobState) -> None:
    old = scene.job(state, checkpoint=False)
    same = scene.post(old, "clone")
    assert same.status_code == 202 and (same.json()["changed"], same.json()["config"]) == ({}, old.config)
    changes = {"seed": 7, "epochs": 10, "augment": "strong", "batch_size": None}
    response = scene.post(old, "clone", changes)
    new = response.json()
    assert new["changed"] == {"seed": [0, 7], "augment": ["default", "strong"], "batch_size": [8, None]}
    assert new["config"] == old.config | changes and new["state"] == "queued" and new["resumed_from"] is None
    assert response.headers["location"] == f"/v1/jobs/{new['id']}" and response.headers["retry-after"]
    assert "changed" not in scene.client.get(new["links"]["self"]).json()


def test_a_clone_of_an_examination_is_one(scene: Scene) -> None:
    old = scene.job(JobState.SUCCEEDED, kind="examine")
    assert scene.post(old, "clone").json()["kind"] == "examine"


@pytest.mark.parametrize(("changes", "pointer"), [
    ({"epoch": 60}, "/epoch"), ({"model": "resnet19"}, "/model"), ({"dataset": "ds_" + "f" * 32}, "/dataset"),
    ({"n_train": 1000}, "/n_train"),
])
def test_a_clone_that_cannot_work_is_refused_by_its_field(scene: Scene, changes: dict[str, Any], pointer: str) -> None:
    problem = is_problem(scene.post(scene.job(JobState.QUEUED), "clone", changes), 422, "config")
    assert [wrong["pointer"] for wrong in problem["errors"]] == [pointer]
