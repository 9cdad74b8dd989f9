"""service/routes/epochs.py: what was measured so far, as JSON, as a table, and as a picture."""

import csv
import io
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from catdog.jobs import JobStore
from tests.serving import CONFIG, Service, is_problem

pytest_plugins = ("tests.service_fixtures",)

EPOCHS: list[dict[str, Any]] = [
    {"epoch": 1, "epochs": 3, "step": 4, "train_loss": 0.7, "val_loss": 0.6, "val_recall": [1.0, 0.25], "learning_rate": 1e-3},
    {"epoch": 2, "epochs": 3, "step": 8, "train_loss": 0.5, "val_loss": 0.4, "val_recall": [0.5, 0.75], "val_auroc": 0.9},
]


@pytest.fixture
def job(shared_service: Service) -> str:
    """The id of a job that waits."""
    jobs: JobStore = shared_service.parts.jobs
    return jobs.create(CONFIG)[0].id


def tell(service: Service, job: str, *lines: str) -> Path:
    path = service.settings.runs / job / "metrics.jsonl"
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.writelines(lines)
    return path


def lines(*epochs: dict[str, Any]) -> list[str]:
    return [json.dumps({"kind": "epoch", "phase": "training", **epoch}) + "\n" for epoch in epochs]


def test_before_the_first_epoch_there_is_none(shared_service: Service, job: str) -> None:
    links = shared_service.client.get(f"/v1/jobs/{job}").json()["links"]
    assert shared_service.client.get(links["metrics"]).json() == {"items": []}
    table = shared_service.client.get(links["metrics"], headers={"Accept": "text/csv"})
    assert table.text == "epoch\r\n"
    assert "no epoch yet" in shared_service.client.get(links["curves"]).text


def test_the_measures_are_those_of_the_lines(shared_service: Service, job: str) -> None:
    tell(shared_service, job, *lines(*EPOCHS), lines(EPOCHS[1])[0][:30])  # and one that is being written
    answer = shared_service.client.get(f"/v1/jobs/{job}/metrics")
    assert answer.json() == {"items": EPOCHS}
    assert answer.headers["content-type"] == "application/json" and answer.headers["vary"] == "Accept"


def test_a_table_has_a_column_for_every_number_that_any_epoch_has(shared_service: Service, job: str) -> None:
    many = [0.5] * 11
    tell(shared_service, job, *lines(EPOCHS[0], EPOCHS[1] | {"message": "=cmd()", "result": {"a": 1}, "stranger": 7, "val_f1": many}))
    answer = shared_service.client.get(f"/v1/jobs/{job}/metrics", headers={"Accept": "text/csv, */*;q=0.1"})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8" and answer.headers["vary"] == "Accept"
    table = list(csv.DictReader(io.StringIO(answer.text)))
    assert list(table[0]) == [
        "epoch", "epochs", "step", "train_loss", "val_loss", "val_auroc", "val_recall.0", "val_recall.1",
        *(f"val_f1.{label}" for label in range(11)), "learning_rate",
    ]
    assert [(row["epoch"], row["val_loss"], row["val_recall.1"], row["val_auroc"]) for row in table] == [
        ("1", "0.6", "0.25", ""), ("2", "0.4", "0.75", "0.9"),
    ]


def test_the_curves_are_a_picture_that_runs_nothing(shared_service: Service, job: str) -> None:
    path = f"/v1/jobs/{job}/curves.svg"
    before = shared_service.client.get(path)
    tell(shared_service, job, *lines(*EPOCHS))
    answer = shared_service.client.get(path)
    assert answer.headers["content-type"].startswith("image/svg+xml") and answer.headers["cache-control"] == "no-cache"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert ElementTree.fromstring(answer.text).tag == "{http://www.w3.org/2000/svg}svg"
    assert answer.text != before.text and "no epoch yet" not in answer.text


@pytest.mark.parametrize(("name", "accept"), [("metrics", "application/json"), ("metrics", "text/csv"), ("curves.svg", "*/*")])
def test_what_has_not_changed_is_not_sent_again(shared_service: Service, job: str, name: str, accept: str) -> None:
    def get(**headers: str) -> Any:
        return shared_service.client.get(f"/v1/jobs/{job}/{name}", headers={"Accept": accept, **headers})

    tell(shared_service, job, *lines(EPOCHS[0]))
    etag = get().headers["etag"]
    same = get(**{"If-None-Match": etag})
    assert (same.status_code, same.content, same.headers["etag"], same.headers["cache-control"]) == (304, b"", etag, "no-cache")
    assert ("vary" in same.headers) == (name == "metrics")
    tell(shared_service, job, *lines(EPOCHS[1]))
    changed = get(**{"If-None-Match": etag})
    assert changed.status_code == 200 and changed.headers["etag"] != etag


def test_an_examination_has_no_epochs_to_link_to(shared_service: Service) -> None:
    examination = shared_service.parts.jobs.create(CONFIG, kind="examine")[0].id
    links = shared_service.client.get(f"/v1/jobs/{examination}").json()["links"]
    assert not {"metrics", "curves", "resume"} & set(links) and links["clone"] == f"/v1/jobs/{examination}/clone"
    is_problem(shared_service.client.get("/v1/jobs/job_0/metrics"), 404, "not_found")
