"""service/server.py, app.py, parts.py, routes/health.py, system.py, discovery.py: the process as its launcher sees it."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from sqlalchemy import make_url

from catdog.errors import BadSettings
from catdog.jobs import JobState
from catdog.settings import Settings
from service import decoding
from service.door import address
from service.server import listen
from tests.postgres import Postgres
from tests.serving import Service, claim, is_problem, make_package, publish, publish_digest, wait_for

pytest_plugins = ("tests.service_fixtures",)


class Process:
    """`python -m service` in a data folder."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.announcement = folder / "data" / "service.json"
        variables = {f"CATDOG_{name.upper()}": value for name, value in settings.items()}
        environment = dict(os.environ) | {"CATDOG_DATA_DIR": str(folder / "data"), "CATDOG_PORT": "0", "CATDOG_DECODERS": "1"} | variables
        self.child = subprocess.Popen(
            [sys.executable, "-m", "service"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )

    def wait_until_up(self) -> str:
        wait_for(lambda: self.announcement.exists() or self.child.poll() is not None, what="service.json")
        announcement = json.loads(self.announcement.read_text())
        assert announcement["pid"] == self.child.pid
        return str(announcement["address"])

    def end(self) -> tuple[int, str, str]:
        printed, logged = self.child.communicate(timeout=30)
        return self.child.returncode, printed, logged


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Process]:
    process = Process(tmp_path)
    yield process
    process.child.kill()
    process.child.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_is_and_takes_it_back(running: Process, number: int) -> None:
    where = running.wait_until_up()
    assert httpx.get(f"{where}/health/live").json() == {"status": "live"}
    assert httpx.get(f"{where}/health/ready").json()["status"] == "degraded"
    running.child.send_signal(number)
    code, printed, logged = running.end()
    assert code == 0 and printed == "" and not running.announcement.exists()
    assert "Traceback" not in logged and all("event=" in line for line in logged.splitlines()), logged


def test_torch_stays_out_and_nothing_survives_a_kill(running: Process) -> None:
    httpx.get(f"{running.wait_until_up()}/v1/system")
    process = psutil.Process(running.child.pid)
    wait_for(lambda: len(process.children(recursive=True)) >= 1, what="the decoder")
    family = process.children(recursive=True)
    assert not [mapped.path for one in (process, *family) for mapped in one.memory_maps() if "torch" in mapped.path]
    running.child.kill()
    running.child.wait()
    wait_for(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in family), what="its children to be gone")


def test_its_threads_and_decoders_take_turns(running: Process) -> None:
    running.wait_until_up()
    process = psutil.Process(running.child.pid)
    (decoder,) = process.children()
    assert os.sched_getscheduler(process.pid) == os.sched_getscheduler(decoder.pid) == os.SCHED_BATCH


@pytest.mark.parametrize(("settings", "words"), [
    ({"port": "99999"}, ["CATDOG_PORT"]),
    ({"host": "0.0.0.0"}, ["CATDOG_TOKEN_FILE"]),
    ({"token_file": "missing"}, ["CATDOG_TOKEN_FILE"]),
    ({"database_url": "nonsense"}, ["SQLAlchemy URL"]),
    ({"host": "192.0.2.1", "token_file": __file__}, ["192.0.2.1", "CATDOG_PORT"]),
])
def test_a_machine_that_is_not_set_up_gets_one_line(tmp_path: Path, settings: dict[str, str], words: list[str]) -> None:
    process = Process(tmp_path, **settings)
    code, printed, logged = process.end()
    assert code == 2 and printed == "" and logged.count("\n") == 1, logged
    assert all(word in logged for word in words)
    assert not process.announcement.exists()


def test_a_port_in_use_is_no_traceback() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(BadSettings, match=str(taken.getsockname()[1])):
        listen("127.0.0.1", taken.getsockname()[1])


def test_addresses() -> None:
    assert [address(host, 1) for host in ("127.0.0.1", "0.0.0.0", "::", "::1", "cats.example")] == [
        "http://127.0.0.1:1", "http://127.0.0.1:1", "http://[::1]:1", "http://[::1]:1", "http://cats.example:1",
    ]


@pytest.mark.parametrize("other", [{"pid": os.getpid() + 1}, {"host": "another-container"}, {"address": "http://127.0.0.1:1"}])
def test_an_announcement_of_another_service_is_left_alone(service: Service, other: dict[str, Any]) -> None:
    announcement = service.settings.root / "service.json"
    own = json.loads(announcement.read_text())
    assert own == {"address": address("127.0.0.1", service.port), "host": socket.gethostname(), "pid": os.getpid()}
    announcement.write_text(json.dumps(own | other))
    service.stop()
    assert announcement.exists()


def test_health_tells_ready_degraded_and_broken_apart(service: Service) -> None:
    get = service.client.get
    degraded = get("/health/ready").json()
    assert degraded["status"] == "degraded" and set(degraded["degraded"]) == {"models", "queue"}
    model = publish(service.parts)
    service.wait_until_served(model.version)
    assert get("/health/ready").json()["models"] == {"champion": model.version}
    assert set(get("/health/ready").json()["degraded"]) == {"queue"}
    (service.settings.runs).rmdir()
    broken = is_problem(get("/health/ready"), 503, "unavailable")
    assert set(broken["broken"]) == {"runs"} and str(service.settings.root) not in json.dumps(broken)
    service.settings.runs.mkdir()
    assert get("/health/ready").status_code == 200


def test_a_service_whose_decoders_do_not_start_is_not_ready(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def ready() -> bool:
        return service.client.get("/health/ready").status_code == 200

    assert ready()
    with monkeypatch.context() as broken:
        broken.setattr(decoding, "COMMAND", (sys.executable, "-c", ""))
        for child in psutil.Process().children():
            if "service.decoder" in child.cmdline():
                child.kill()
        wait_for(lambda: not ready(), what="the answer that it is broken")
        assert set(is_problem(service.client.get("/health/ready"), 503, "unavailable")["broken"]) == {"decoders"}
    wait_for(ready, what="decoders that start")


def test_an_alias_without_any_model_that_loads_is_not_ready(service: Service) -> None:
    digest = make_package(service.settings.models)
    (service.settings.models / digest / "model.onnx").unlink()
    publish_digest(service.parts.jobs, service.parts.registry, digest)
    service.parts.predictors.wake()
    wait_for(lambda: service.parts.predictors.failures() != {}, what="the failure")
    response = service.client.get("/health/ready")
    assert response.status_code == 503 and set(response.json()["broken"]) == {"alias champion"}
    assert service.client.get("/health/live").status_code == 200


def events_in(caplog: pytest.LogCaptureFixture) -> set[str]:
    return {word.removeprefix("event=") for record in caplog.records for word in record.getMessage().split() if word.startswith("event=")}


def test_a_broken_database_is_said_without_its_place_and_survived(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    database = service.settings.root / "catdog.sqlite"
    whole = database.read_bytes()
    database.write_bytes(b"no database" * 1000)
    response = service.client.get("/health/ready")
    assert response.status_code == 503 and set(response.json()["broken"]) == {"database"}
    assert str(service.settings.root) not in response.text and service.client.get("/health/live").status_code == 200
    is_problem(service.client.get("/v1/jobs"), 500, "internal")
    service.parts.predictors.wake()
    wait_for(lambda: {"aliases_unreadable", "sweep_failed"} <= events_in(caplog), what="both threads to see it")
    database.write_bytes(whole)
    assert service.client.get("/health/ready").status_code == 200
    service.wait_until_served(publish(service.parts).version)


def test_the_system_shows_limits_counts_and_typing_mistakes(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CATDOG_DECODRES", "3")
    publish(service.parts)
    system = service.client.get("/v1/system").json()
    assert system["limits"]["image_bytes"] == service.settings.max_image_bytes and system["formats"]["pictures"][0] == "JPEG"
    assert system["counts"] == {"datasets": 0, "jobs_waiting": 0, "jobs_running": 0, "models": 1}
    assert any("CATDOG_DECODRES" in warning for warning in system["warnings"])
    assert system["devices"]["cores"] >= 1 and system["versions"]["catdog"]


def test_every_address_of_the_discovery_answers(shared_service: Service) -> None:
    urls = shared_service.client.get("/").json()["urls"]
    for name, url in urls.items():
        assert shared_service.client.get(url).status_code == (405 if name == "predict" else 200), url


def test_the_documentation_needs_no_internet(shared_service: Service) -> None:
    page = shared_service.client.get("/docs").text
    assert "http://" not in page and "https://" not in page
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert f"/static-offline-docs/{asset}" in page and shared_service.client.get(f"/static-offline-docs/{asset}").status_code == 200
    document = shared_service.client.get("/openapi.json").json()
    train_config = document["components"]["schemas"]["TrainConfig"]
    assert train_config["properties"]["epochs"]["description"] and train_config["additionalProperties"] is False
    responses = [operation["responses"] for path in document["paths"].values() for operation in path.values()]
    assert all("application/problem+json" in response["422"]["content"] for response in responses)


def test_two_services_may_share_a_folder(settings: Settings, serve: Callable[[Settings], Service]) -> None:
    first, second = serve(settings), serve(settings)
    job_id = first.parts.jobs.create({})[0].id
    assert second.client.get(f"/v1/jobs/{job_id}").json()["state"] == "queued"


LOCKS = "FROM pg_locks JOIN pg_database ON pg_database.oid = database WHERE locktype = 'advisory' AND granted AND datname = %s"


def test_two_services_on_one_postgresql_do_everything_once(
    settings: Settings, postgres: Postgres, postgresql_url: str, caplog: pytest.LogCaptureFixture,
) -> None:
    """One leads, whichever; cut off or stopped, one leads again. What either accepted is imported once, and seen by both."""
    caplog.set_level(logging.INFO)
    shared = settings.model_copy(update={"database_url": postgresql_url})
    database = make_url(postgresql_url).database
    services = [Service(shared), Service(shared)]
    uploaded: list[str] = []

    def upload_to_each() -> None:
        for service in services:
            uploaded.append(service.client.post("/v1/datasets", json={"source": "drawn", "count": 40}).json()["id"])
        for service in services:
            for dataset_id in uploaded:
                entry = service.client.get(f"/v1/datasets/{dataset_id}", params={"wait": 30}).json()
                assert entry["state"] == "ready", entry

    upload_to_each()
    assert postgres.execute(f"SELECT count(*) {LOCKS}", database) == [(2,)], "one reconciler and one importer lead"
    postgres.execute(f"SELECT pg_terminate_backend(pid, 10000) {LOCKS}", database)
    wait_for(lambda: postgres.execute(f"SELECT count(*) {LOCKS}", database) == [(2,)], what="leaders again")
    version = publish(services[0].parts).version
    wait_for(lambda: all(one.client.get("/health/ready").json()["models"] == {"champion": version} for one in services), what="the model")
    services.pop(0).stop()
    held = claim(services[0].parts.jobs)
    owner = subprocess.Popen([sys.executable, "-c", ""])
    orphaned = claim(services[0].parts.jobs, owner=owner.pid)
    owner.wait()
    wait_for(lambda: services[0].parts.jobs.get(orphaned.job_id).state == JobState.QUEUED, what="the other one to sweep")
    assert services[0].parts.jobs.get(held.job_id).state == JobState.RUNNING
    upload_to_each()
    services[0].stop()
    started = [record.getMessage().rpartition("=")[2] for record in caplog.records if "event=import_started" in record.getMessage()]
    assert sorted(started) == sorted(uploaded)
