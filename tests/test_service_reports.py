"""service/routes/datasets.py: the report of a data set, and its end."""

import shutil
from pathlib import Path

import pytest

from catdog.config import TrainConfig
from catdog.jobs import JobState
from catdog.process import Identity
from catdog.settings import Settings
from catdog.sources import import_folder
from tests.pictures import lay_out, pets
from tests.serving import Service, is_problem

pytest_plugins = ("tests.service_fixtures",)


@pytest.fixture
def dataset(service: Service, tmp_path: Path) -> str:
    source = lay_out(tmp_path / "source", {**pets(8), "notes <b>.txt": b""})
    return import_folder(source, service.settings.datasets, settings=service.settings).id


def test_the_report_is_json_for_programs_and_a_page_for_people(service: Service, dataset: str) -> None:
    link = service.client.get(f"/v1/datasets/{dataset}").json()["links"]["report"]
    report = service.client.get(link)
    assert report.headers["content-type"] == "application/json" and report.json()["images"] == 16
    assert [one["name"] for one in report.json()["refused"]] == ["notes <b>.txt"]
    page = service.client.get(link, headers={"Accept": "text/html,application/xhtml+xml"})
    assert page.headers["content-type"].startswith("text/html") and "notes &lt;b&gt;.txt" in page.text
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src" not in policy and page.headers["vary"] == "Accept"
    is_problem(service.client.get("/v1/datasets/ds_" + "0" * 32 + "/report"), 404, "not_found")


def test_a_data_set_without_a_report_says_so(service: Service) -> None:
    folder = service.parts.shelf.reserve()
    (folder / "refused.json").write_text('{"code": "bad_dataset", "message": "m", "remedy": "r", "offenders": []}')
    is_problem(service.client.get(f"/v1/datasets/{folder.name}/report"), 404, "not_found")


def test_a_data_set_is_deleted_when_nobody_needs_it(service: Service, dataset: str) -> None:
    config = TrainConfig.parse({"dataset": dataset, "model": "unet"}).model_dump(mode="json")
    jobs = service.parts.jobs
    job = jobs.create(config)[0].id
    problem = is_problem(service.client.delete(f"/v1/datasets/{dataset}"), 409, "conflict")
    assert job in problem["detail"]
    claim = jobs.claim(job, Identity("host", "boot", "pid:[1]", 41, 1.5))
    assert claim is not None
    is_problem(service.client.delete(f"/v1/datasets/{dataset}"), 409, "conflict")
    jobs.finish(claim, state=JobState.CANCELLED)
    response = service.client.delete(f"/v1/datasets/{dataset}")
    assert response.status_code == 204 and response.content == b""
    is_problem(service.client.get(f"/v1/datasets/{dataset}"), 404, "not_found")
    is_problem(service.client.delete(f"/v1/datasets/{dataset}"), 404, "not_found")
    assert list(service.settings.datasets.iterdir()) == []


def test_what_is_being_imported_is_not_deleted(service: Service) -> None:
    service.parts.importer.close()  # nobody decides about it meanwhile
    folder = service.parts.shelf.reserve()
    (folder / "archive.zip").write_bytes(b"")
    try:
        is_problem(service.client.delete(f"/v1/datasets/{folder.name}"), 409, "conflict")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("name", ["..", "%2e%2e", "../models", "ds_x"])
def test_an_id_is_never_a_path(service: Service, settings: Settings, name: str) -> None:
    (settings.root / "datasets" / "dataset.json").write_text("{}")
    assert service.client.delete(f"/v1/datasets/{name}").status_code in (404, 405)
    assert (settings.root / "models").is_dir()
