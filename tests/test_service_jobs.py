"""service/routes/jobs.py: a job over HTTP, from acceptance to its last event."""

import json
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import httpx
import pytest

from catdog.datasets import Dataset
from catdog.doctor.findings import Culprit, Finding, Report
from catdog.jobs import JobState, JobStore
from catdog.process import Identity
from catdog.progress import Progress
from catdog.sources import draw, import_folder
from tests.serving import CONFIG, Service, claim, is_problem, wait_for

pytest_plugins = ("tests.service_fixtures",)


@pytest.fixture(scope="module")
def dataset(shared_service: Service, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    pictures = tmp_path_factory.mktemp("pictures")
    draw(pictures, count=40, size=32)
    return import_folder(pictures, shared_service.settings.datasets, settings=shared_service.settings)


@pytest.fixture
def jobs(shared_service: Service) -> JobStore:
    return shared_service.parts.jobs


def body(made: Dataset, **fields: Any) -> dict[str, Any]:
    return {"dataset": made.id, "model": "resnet18", "weights": "none", "image_size": 32} | fields


def test_a_job_is_accepted_and_shows_every_value(shared_service: Service, dataset: Dataset, jobs: JobStore) -> None:
    response = shared_service.client.post("/v1/jobs", json=body(dataset, seed=5))
    job = response.json()
    assert response.status_code == 202 and job["state"] == "queued"
    assert response.headers["location"] == job["links"]["self"] == f"/v1/jobs/{job['id']}" and response.headers["retry-after"]
    assert job["config"]["seed"] == 5 and job["config"]["epochs"] == 10
    assert job["config"]["publish"] == {"alias": "champion", "promote": "auto"}
    assert jobs.get(job["id"]).config == job["config"]
    assert shared_service.client.get(job["links"]["self"]).json() == job


@pytest.mark.parametrize(("fields", "code", "pointer"), [
    ({"learning_rate": -1}, "config", "/learning_rate"),
    ({"warmup_steps": 9999}, "config", "/warmup_steps"),
    ({"publish": {"alias": "UPPER"}}, "config", "/publish/alias"),
    ({"unknown": 1}, "config", "/unknown"),
    ({"model": "resnet19"}, "config", "/model"),
    ({"model": "network.py:Network"}, "config", "/model"),
    ({"dataset": "ds_" + "f" * 32}, "config", "/dataset"),
    ({"dataset": "../models"}, "config", "/dataset"),
    ({"weights": "imagenet", "image_size": 224}, "weights_unavailable", "/weights"),
])
def test_what_cannot_work_is_refused_by_its_field(
    shared_service: Service, dataset: Dataset, jobs: JobStore, fields: dict[str, Any], code: str, pointer: str,
) -> None:
    before = len(jobs.list(limit=200))
    problem = is_problem(shared_service.client.post("/v1/jobs", json=body(dataset, **fields)), 422, code)
    assert [wrong["pointer"] for wrong in problem["errors"]] == [pointer]
    assert len(jobs.list(limit=200)) == before


def test_a_data_set_that_is_not_ready_is_refused(shared_service: Service, dataset: Dataset) -> None:
    shelf = shared_service.parts.shelf
    folder = shelf.reserve()
    shelf.accept(folder, {})
    (folder / "refused.json").write_text("{}")
    problem = is_problem(shared_service.client.post("/v1/jobs", json=body(dataset, dataset=folder.name)), 422, "config")
    assert "refused" in problem["detail"] and problem["errors"][0]["pointer"] == "/dataset"


def test_the_same_key_and_body_give_the_same_job(shared_service: Service, dataset: Dataset) -> None:
    first, second = (shared_service.client.post("/v1/jobs", json=body(dataset), headers={"Idempotency-Key": "k1"}) for _ in "12")
    assert (first.status_code, second.status_code) == (202, 200) and first.json()["id"] == second.json()["id"]
    other = shared_service.client.post("/v1/jobs", json=body(dataset, seed=9), headers={"Idempotency-Key": "k1"})
    is_problem(other, 422, "bad_input")


def test_a_repeated_request_is_answered_also_when_its_data_set_has_gone(service: Service, dataset: Dataset) -> None:
    here = service.settings.datasets / dataset.id
    shutil.copytree(dataset.folder, here)
    post = partial(service.client.post, "/v1/jobs", json=body(dataset))
    first = post(headers={"Idempotency-Key": "k1"})
    shutil.rmtree(here)
    again = post(headers={"Idempotency-Key": "k1"})
    assert (first.status_code, again.status_code) == (202, 200) and first.json()["id"] == again.json()["id"]
    is_problem(post(headers={"Idempotency-Key": "k2"}), 422, "config")
    is_problem(post(), 422, "config")


def test_jobs_are_listed_newest_first_by_state_and_page(shared_service: Service, jobs: JobStore) -> None:
    made = [jobs.create({"n": n})[0].id for n in range(3)]
    jobs.request_cancel(made[1])
    get = shared_service.client.get
    page = get("/v1/jobs", params={"limit": 2}).json()
    assert [job["id"] for job in page["items"]] == [made[2], made[1]] and page["next"] == made[1]
    assert get("/v1/jobs", params={"limit": 1, "after": page["next"]}).json()["items"][0]["id"] == made[0]
    assert made[1] in {job["id"] for job in get("/v1/jobs", params={"state": "cancelled", "limit": 200}).json()["items"]}
    assert made[0] not in {job["id"] for job in get("/v1/jobs", params={"state": "cancelled", "limit": 200}).json()["items"]}


def test_cancelling(shared_service: Service, jobs: JobStore) -> None:
    post = shared_service.client.post
    queued = jobs.create({})[0].id
    assert [post(f"/v1/jobs/{queued}/cancel").status_code for _ in "12"] == [200, 200]
    running = claim(jobs)
    asked = post(f"/v1/jobs/{running.job_id}/cancel")
    assert asked.status_code == 202 and asked.json()["cancel_requested"] and asked.json()["state"] == "running"
    failed = claim(jobs)
    jobs.finish(failed, state=JobState.FAILED, error={"code": "internal", "message": "m", "remedy": "r"})
    is_problem(post(f"/v1/jobs/{failed.job_id}/cancel"), 409, "conflict")


@pytest.mark.parametrize("change", [
    Progress("phase", phase="training"), Progress("step", phase="preparing", epoch=2), None,
])
def test_a_long_poll_answers_when_something_changes(shared_service: Service, jobs: JobStore, change: Progress | None) -> None:
    running = claim(jobs)
    jobs.report(running, progress=Progress("step", phase="preparing", epoch=1))
    answers: list[dict[str, Any]] = []

    def poll() -> None:
        answers.append(shared_service.client.get(f"/v1/jobs/{running.job_id}", params={"wait": 50}, timeout=60).json())

    waiting = threading.Thread(target=poll)
    waiting.start()
    # A step is no change: an answer to it would be this one.
    jobs.report(running, progress=Progress("step", phase="preparing", epoch=1, step=7))
    waiting.join(0.6)
    assert answers == []
    if change is None:
        jobs.finish(running, state=JobState.CANCELLED)
    else:
        jobs.report(running, progress=change)
    waiting.join()
    assert answers[0]["state"] == ("cancelled" if change is None else "running")
    assert change is None or (answers[0]["phase"], answers[0]["progress"].get("epoch")) == (change.phase, change.epoch)


def test_a_long_poll_ends_with_its_time_or_at_once_for_a_finished_job(shared_service: Service, jobs: JobStore) -> None:
    queued = jobs.create({})[0].id
    assert shared_service.client.get(f"/v1/jobs/{queued}", params={"wait": 0.1}).json()["state"] == "queued"
    jobs.request_cancel(queued)
    assert shared_service.client.get(f"/v1/jobs/{queued}", params={"wait": 60}, timeout=10).json()["state"] == "cancelled"
    is_problem(shared_service.client.get(f"/v1/jobs/{queued}", params={"wait": 61}), 422, "bad_input")


def test_an_unchanged_job_is_not_sent_again(shared_service: Service, jobs: JobStore) -> None:
    running = claim(jobs)
    get = shared_service.client.get
    etag = get(f"/v1/jobs/{running.job_id}").headers["etag"]
    unchanged = get(f"/v1/jobs/{running.job_id}", headers={"If-None-Match": f'"other", W/{etag}'})
    assert unchanged.status_code == 304 and unchanged.content == b"" and unchanged.headers["etag"] == etag
    jobs.report(running, progress=Progress("step", step=3))
    changed = get(f"/v1/jobs/{running.job_id}", headers={"If-None-Match": etag})
    assert changed.status_code == 200 and changed.headers["etag"] != etag


def messages(response: httpx.Response) -> Iterator[dict[str, str]]:
    """The server-sent events of a stream."""
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            yield fields
            fields = {}


def test_events_are_live_end_with_the_job_and_can_be_asked_for_again(shared_service: Service, jobs: JobStore) -> None:
    running = claim(jobs)
    path = f"/v1/jobs/{running.job_id}/events"
    with shared_service.client.stream("GET", path) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        stream = messages(response)
        assert [json.loads(next(stream)["data"])["to"] for _ in "12"] == ["queued", "running"]
        jobs.report(running, progress=Progress("step", phase="training", step=3))
        transient = next(stream)
        assert transient["event"] == "progress" and "id" not in transient and json.loads(transient["data"])["step"] == 3
        jobs.report(running, events=[Progress("epoch", phase="training", epoch=1, train_loss=0.5)])
        epoch = next(stream)
        assert epoch["event"] == "epoch" and json.loads(epoch["data"])["train_loss"] == 0.5
        jobs.finish(running, state=JobState.CANCELLED)
        rest = [message for message in stream if message["event"] != "progress"]
    assert json.loads(rest[-1]["data"])["to"] == "cancelled"
    with shared_service.client.stream("GET", path, headers={"Last-Event-ID": epoch["id"]}) as response:
        assert list(messages(response)) == rest
    with shared_service.client.stream("GET", path) as response:
        replayed = list(messages(response))
    assert [message["id"] for message in replayed] == [str(event.seq) for event in jobs.events(running.job_id)]
    is_problem(shared_service.client.get("/v1/jobs/job_none/events"), 404, "not_found")


@pytest.mark.parametrize("number", ["9" * 20, "9" * 5000, "seven", "-1", "1.5"])
def test_an_event_id_that_is_none_is_refused_before_the_stream(shared_service: Service, jobs: JobStore, number: str) -> None:
    path = f"/v1/jobs/{jobs.create({})[0].id}/events"
    problem = is_problem(shared_service.client.get(path, headers={"Last-Event-ID": number}), 422, "bad_input")
    assert [wrong["pointer"] for wrong in problem["errors"]] == ["/header/last-event-id"]


def test_the_log_is_its_end(shared_service: Service, jobs: JobStore) -> None:
    job = jobs.create({})[0].id
    path = f"/v1/jobs/{job}/logs"
    assert shared_service.client.get(path).text == ""
    folder = shared_service.settings.runs / job
    folder.mkdir()
    (folder / "log.txt").write_bytes("début\nend\n\xff".encode("latin-1"))
    response = shared_service.client.get(path, params={"tail_bytes": 5})
    assert response.text == "end\n\ufffd" and response.headers["content-type"].startswith("text/plain")
    is_problem(shared_service.client.get(path, params={"tail_bytes": 2**20 + 1}), 422, "bad_input")
    is_problem(shared_service.client.get("/v1/jobs/job_none/logs"), 404, "not_found")


def test_a_dry_run_is_an_examination_with_artifacts(shared_service: Service, dataset: Dataset, jobs: JobStore) -> None:
    headers = {"Idempotency-Key": "dry"}
    response = shared_service.client.post("/v1/jobs?dry_run=true", json=body(dataset), headers=headers)
    assert response.status_code == 202 and response.json()["kind"] == "examine"
    is_problem(shared_service.client.post("/v1/jobs", json=body(dataset), headers=headers), 422, "bad_input")  # the same key, another wish
    job = response.json()["id"]
    folder = shared_service.settings.runs / job / "artifacts"
    folder.mkdir(parents=True)
    (folder / "contact_sheet.png").write_bytes(b"a sheet")
    (folder.parent / "config.json").write_text("{}")
    examination = jobs.claim(job, Identity.of(os.getpid()))
    assert examination and jobs.finish(examination, state=JobState.SUCCEEDED, result={"artifacts": ["contact_sheet.png"]})
    link, = shared_service.client.get(f"/v1/jobs/{job}").json()["links"]["artifacts"]
    sheet = shared_service.client.get(link)
    assert (sheet.content, sheet.headers["content-type"]) == (b"a sheet", "image/png")
    assert sheet.headers["content-security-policy"].startswith("default-src 'none'")
    is_problem(shared_service.client.get(f"/v1/jobs/{job}/artifacts/other.png"), 404, "not_found")
    for name in ("..%2fconfig.json", "%2e%2e/config.json", "contact_sheet.exe", "CONTACT_SHEET.png"):
        assert shared_service.client.get(f"/v1/jobs/{job}/artifacts/{name}").status_code in (404, 422)


def test_the_doctors_report_and_what_the_curves_say_are_served(shared_service: Service, jobs: JobStore) -> None:
    job = jobs.create(CONFIG)[0].id
    path = shared_service.client.get(f"/v1/jobs/{job}").json()["links"]["doctor"]
    assert "examining" in is_problem(shared_service.client.get(path), 404, "not_found")["remedy"]
    folder = shared_service.settings.runs / job
    folder.mkdir()
    finding = Finding("M01", "error", "Dead branch.", Culprit("down1", "network.py:7", 0.9, 0.5), ("noise changes nothing",), "Use it.")
    report = Report((finding,), passed=("M02",), not_run={"M06": "budget"}, seconds=1.5)
    (folder / "doctor.json").write_text(json.dumps(report.to_dict()))
    answer = shared_service.client.get(path)
    assert answer.json() == report.to_dict() | {"findings": [asdict(finding) | {"evidence": ["noise changes nothing"]}], "curve": []}
    assert Report.from_dict(answer.json()) == report
    epochs = [{"kind": "epoch", "epoch": number, "epochs": 4, "train_loss": 0.7 * number**2, "val_loss": 0.7} for number in range(1, 5)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(epoch) + "\n" for epoch in epochs))
    assert [one["code"] for one in shared_service.client.get(path).json()["curve"]] == ["C01"]
    assert shared_service.client.get(path, headers={"If-None-Match": answer.headers["etag"]}).status_code == 200, "it says something else"
    is_problem(shared_service.client.get("/v1/jobs/job_none/doctor"), 404, "not_found")


def test_who_waits_is_answered_when_the_service_stops(service: Service) -> None:
    job = service.parts.jobs.create({})[0].id
    states: list[str] = []
    ended = threading.Event()

    def poll() -> None:
        states.append(httpx.get(f"{service.client.base_url}/v1/jobs/{job}", params={"wait": 60}, timeout=70).json()["state"])

    def follow() -> None:
        with httpx.stream("GET", f"{service.client.base_url}/v1/jobs/{job}/events", timeout=70) as response:
            list(messages(response))
        ended.set()

    waiting = [threading.Thread(target=poll), threading.Thread(target=follow)]
    for thread in waiting:
        thread.start()
    wait_for(lambda: len(service.server.server_state.tasks) == 2, what="both requests")
    service.stop()
    for thread in waiting:
        thread.join()
    assert states == ["queued"] and ended.is_set()
