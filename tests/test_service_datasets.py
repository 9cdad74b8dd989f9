"""service/routes/datasets.py, uploads.py, shelf.py, importer.py: an upload is whole, durable and imported, or leaves nothing."""

import io
import json
import os
import socket
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from catdog.database import create_engine, lock_number
from catdog.errors import NotFound
from catdog.leadership import Leadership
from catdog.settings import Settings
from service import importer as importing
from service.importer import MAX_DEATHS, NOT_NOW, Importer
from service.shelf import ABANDONED_SECONDS, EntryState, Shelf
from tests.postgres import Postgres
from tests.serving import Service, archive, is_problem, wait_for

pytest_plugins = ("tests.service_fixtures",)

ZIP = {"Content-Type": "application/zip"}
NAMES = [f"{label}.{number}.jpg" for label in ("cat", "dog") for number in range(12)]


def upload(service: Service, data: bytes, **query: Any) -> Any:
    return service.client.post("/v1/datasets", content=data, headers=ZIP, params=query)


def wait_until_imported(service: Service, dataset_id: str) -> dict[str, Any]:
    while True:
        answer: dict[str, Any] = service.client.get(f"/v1/datasets/{dataset_id}", params={"wait": 20}).json()
        if answer["state"] != "importing":
            return answer


def test_an_upload_is_accepted_and_becomes_a_data_set(service: Service) -> None:
    response = upload(service, archive(NAMES))
    accepted = response.json()
    assert response.status_code == 202 and accepted["state"] == "importing"
    assert response.headers["location"] == f"/v1/datasets/{accepted['id']}" and response.headers["retry-after"] == "1"
    ready = wait_until_imported(service, accepted["id"])
    assert ready["state"] == "ready" and ready["id"] == accepted["id"], ready
    assert ready["labels"] == ["cat", "dog"]
    assert sum(sum(split.values()) for split in ready["counts"].values()) == len(NAMES)
    assert not (service.settings.datasets / accepted["id"] / "archive.zip").exists()
    (listed,) = service.client.get("/v1/datasets").json()["items"]
    assert (listed["id"], listed["state"]) == (accepted["id"], "ready")


def test_what_the_pictures_show_is_refused_after_the_import(service: Service) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        for name in NAMES:
            packed.writestr(name, b"not a picture of " + name.encode())
    answer = wait_until_imported(service, upload(service, file.getvalue()).json()["id"])
    assert answer["state"] == "refused"
    assert answer["error"]["code"] == "bad_dataset" and answer["error"]["message"] and answer["error"]["remedy"]


def test_the_service_draws_a_data_set(service: Service) -> None:
    response = service.client.post("/v1/datasets", json={"source": "drawn", "count": 40, "seed": 3})
    assert response.status_code == 202
    assert wait_until_imported(service, response.json()["id"])["state"] == "ready"


def test_a_public_collection_is_imported_by_its_name(service: Service) -> None:
    """From a zip that was downloaded before: no network in this test."""
    (service.settings.root / "downloads").mkdir()
    names = [f"{name[:3]}/{'Bengal' if name[0] == 'c' else 'pug'}_{number}.jpg" for number, name in enumerate(NAMES)]
    (service.settings.root / "downloads" / "oxford-pets.zip").write_bytes(archive(names))
    response = service.client.post("/v1/datasets", json={"source": "oxford-pets", "seed": 5})
    assert response.status_code == 202
    ready = wait_until_imported(service, response.json()["id"])
    assert ready["state"] == "ready" and ready["labels"] == ["cat", "dog"] and ready["images"] == len(NAMES)
    assert json.loads((service.settings.datasets / ready["id"] / "dataset.json").read_text())["seed"] == 5


@pytest.mark.parametrize(("body", "pointer"), [
    ({"source": "elsewhere"}, ""), ({"source": "drawn", "count": 1}, "/count"), ({"source": "drawn", "x": 1}, "/x"), ({}, ""),
    ({"source": "oxford-pets", "count": 50}, "/count"), ({"source": "dogs-vs-cats", "seed": -1}, "/seed"),
    ({"source": "dogs-vs-cats", "url": "http://localhost/a.zip"}, "/url"), ({"source": ["drawn"]}, ""), ([], ""),
])
def test_a_wrong_source_is_refused(shared_service: Service, body: Any, pointer: str) -> None:
    (wrong,) = is_problem(shared_service.client.post("/v1/datasets", json=body), 422, "bad_input")["errors"]
    assert wrong["pointer"] == pointer
    assert list(shared_service.settings.datasets.iterdir()) == []


@pytest.mark.parametrize(("data", "status", "code"), [
    (b"this is no zip", 415, "unsupported_type"),
    (b"", 415, "unsupported_type"),
    (archive([]), 422, "bad_dataset"),
    (archive(["cat.1.jpg", "cat.2.jpg"]), 422, "bad_dataset"),
    (archive([*NAMES, "catdog.jpg", "nothing.jpg"]), 422, "bad_dataset"),
    (archive([*NAMES, "../cat.99.jpg"]), 422, "bad_dataset"),
])
def test_what_names_alone_show_is_refused_at_once_and_leaves_nothing(shared_service: Service, data: bytes, status: int, code: str) -> None:
    body = is_problem(upload(shared_service, data), status, code)
    if b"catdog.jpg" in data:
        assert {"catdog.jpg", "nothing.jpg"} <= {word for wrong in body["errors"] for word in wrong["detail"].replace(":", " ").split()}
    assert list(shared_service.settings.datasets.iterdir()) == []


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=x", "image/png"])
def test_another_content_type_is_refused(shared_service: Service, kind: str) -> None:
    response = shared_service.client.post("/v1/datasets", content=archive(NAMES), headers={"Content-Type": kind})
    is_problem(response, 415, "unsupported_type")
    assert list(shared_service.settings.datasets.iterdir()) == []


@pytest.mark.parametrize("query", [{"rule": "magic"}, {"seed": -1}, {"unlabelled": "maybe"}, {"pattern": "x" * 501}])
def test_a_wrong_wish_is_refused(shared_service: Service, query: dict[str, Any]) -> None:
    is_problem(upload(shared_service, archive(NAMES), **query), 422, "bad_input")
    assert list(shared_service.settings.datasets.iterdir()) == []


@pytest.mark.parametrize("labels", ["cat", "cat,", "cat,Cat", "cat,a/b", "cat," + "x" * 65, "caf\u00e9,cafe\u0301"])
def test_wrong_labels_are_refused_before_the_archive_is_sent(shared_service: Service, labels: str) -> None:
    query = httpx.QueryParams({"labels": labels})
    head = f"POST /v1/datasets?{query} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/zip\r\nContent-Length: 5000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", shared_service.port), timeout=20) as connection:
        connection.sendall(head.encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 422") and b'"code":"bad_dataset"' in answer
    assert list(shared_service.settings.datasets.iterdir()) == []


@pytest.mark.parametrize("query", [
    {"rule": "pattern"}, {"rule": "pattern", "pattern": "(?P<label>"}, {"rule": "pattern", "pattern": "(cat|dog)"},
])
def test_a_wrong_pattern_is_refused(shared_service: Service, query: dict[str, Any]) -> None:
    is_problem(upload(shared_service, archive(NAMES), **query), 422, "bad_dataset")
    assert list(shared_service.settings.datasets.iterdir()) == []


def test_labels_rule_pattern_seed_and_what_is_skipped_reach_the_import(service: Service) -> None:
    names = [name.replace("cat.", "IMG-c").replace("dog.", "IMG-d") for name in NAMES]
    query = {"labels": "d, c", "rule": "pattern", "pattern": r"IMG-(?P<label>[a-z])\d+", "unlabelled": "skip", "seed": 7}
    answer = wait_until_imported(service, upload(service, archive([*names, "stray.jpg", "IMG-e1.jpg"]), **query).json()["id"])
    assert answer["state"] == "ready" and answer["labels"] == ["d", "c"] and answer["images"] == len(NAMES)
    assert {(one["name"], one["kind"]) for one in answer["refused"]} == {("stray.jpg", "unlabelled"), ("IMG-e1.jpg", "unlabelled")}
    assert json.loads((service.settings.datasets / answer["id"] / "dataset.json").read_text())["seed"] == 7


def test_a_manifest_in_the_archive_is_looked_at_at_once(shared_service: Service) -> None:
    file = io.BytesIO(archive([f"{number}.jpg" for number in range(24)]))
    with zipfile.ZipFile(file, "a") as packed:
        packed.writestr("manifest.csv", "path,label\r\n" + "".join(f"{number}.jpg,{'cdog'[number % 2 :]}\r\n" for number in range(23)))
    assert "1 unlabelled (23.jpg)" in is_problem(upload(shared_service, file.getvalue()), 422, "bad_dataset")["detail"]
    assert list(shared_service.settings.datasets.iterdir()) == []


def test_an_upload_whose_client_leaves_is_gone(service: Service) -> None:
    folder = service.settings.datasets
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        head = "POST /v1/datasets HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/zip\r\nContent-Length: 5000000\r\n\r\n"
        connection.sendall(head.encode() + b"x" * 2_000_000)
        wait_for(lambda: any((path / "archive.zip.part").exists() for path in folder.iterdir()), what="the upload to begin")
        assert service.client.get("/v1/datasets").json()["items"] == []
        (begun,) = folder.iterdir()
        is_problem(service.client.get(f"/v1/datasets/{begun.name}"), 404, "not_found")
    wait_for(lambda: not list(folder.iterdir()), what="the upload to be gone")


@pytest.mark.parametrize("dataset_id", ["ds_" + "0" * 32, "..", "%2e%2e%2fmodels", "ds_" + "0" * 31 + "%0a", "DS_" + "0" * 32])
def test_an_unknown_data_set_is_not_found(shared_service: Service, dataset_id: str) -> None:
    assert shared_service.client.get(f"/v1/datasets/{dataset_id}").status_code == 404


def test_ids_are_never_paths(settings: Settings) -> None:
    (settings.root / "dataset.json").write_text("{}")
    for dataset_id in ("..", ".", "../datasets", "/", "", "ds_" + "0" * 32 + "\n"):
        with pytest.raises(NotFound):
            Shelf(settings.datasets).entry(dataset_id)


def test_an_upload_accepted_before_a_crash_is_imported_at_the_next_start(settings: Settings, serve: Callable[[Settings], Service]) -> None:
    shelf = Shelf(settings.datasets)
    folder = shelf.reserve()
    shelf.accept(folder, {"labels": None, "rule": "auto", "seed": 0})
    (folder / "archive.zip").write_bytes(archive(NAMES))
    assert wait_until_imported(serve(settings), folder.name)["state"] == "ready"


def test_abandoned_uploads_are_swept_and_others_are_not(settings: Settings) -> None:
    shelf = Shelf(settings.datasets)
    abandoned, fresh, accepted = shelf.reserve(), shelf.reserve(), shelf.reserve()
    shelf.accept(accepted, {"source": "drawn"})
    age(abandoned, accepted)
    assert shelf.sweep() == [abandoned.name]
    assert {path.name for path in settings.datasets.iterdir()} == {fresh.name, accepted.name}
    assert [entry.id for entry in shelf.importing()] == [accepted.name]


def age(*folders: Path) -> None:
    """Let it be long since anything changed there."""
    for folder in folders:
        for path in (*folder.iterdir(), folder):
            os.utime(path, (time.time() - 2 * ABANDONED_SECONDS,) * 2)


def test_what_dead_imports_left_is_swept_and_the_work_of_live_ones_is_not(settings: Settings) -> None:
    shelf = Shelf(settings.datasets)
    dead, half, fresh, alive = (settings.datasets / f"ds_{'0' * 32}.staging-{name}" for name in ("a", "b.discarded-1", "c", "d"))
    ready, refused, accepted = (shelf.reserve() for _ in range(3))
    for folder in (dead, half, fresh, alive):
        (folder / "images" / "ab").mkdir(parents=True)
    for folder in (ready, refused, accepted):
        (folder / "archive.zip").write_bytes(b"")
    (ready / "dataset.json").write_text("{}")
    (refused / "refused.json").write_text("{}")
    age(dead / "images" / "ab", half / "images" / "ab", dead, half, alive, accepted)
    assert set(shelf.sweep()) == {dead.name, half.name, f"{ready.name}/archive.zip", f"{refused.name}/archive.zip"}
    assert {path.name for path in settings.datasets.iterdir()} == {path.name for path in (fresh, alive, ready, refused, accepted)}
    assert [folder for folder in (ready, refused, accepted) if (folder / "archive.zip").exists()] == [accepted]
    assert shelf.sweep() == []


def test_a_folder_may_vanish_while_it_is_looked_at(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf(settings.datasets)
    vanishing, abandoned = shelf.reserve(), shelf.reserve()
    age(vanishing, abandoned)
    look = Path.iterdir

    def look_too_late(path: Path) -> Iterator[Path]:
        if path == vanishing and vanishing.exists():
            vanishing.rmdir()
        return look(path)

    monkeypatch.setattr(Path, "iterdir", look_too_late)
    assert shelf.sweep() == [abandoned.name]


def test_what_is_abandoned_is_also_swept_while_the_service_runs(settings: Settings) -> None:
    importer = run_importer(settings, "")
    abandoned = Shelf(settings.datasets).reserve()
    age(abandoned)
    importer.wake()
    wait_for(lambda: not abandoned.exists(), what="the sweep")
    importer.close()


def test_a_refusal_takes_what_was_made_with_it(settings: Settings) -> None:
    folder, other = waiting(settings), waiting(settings)
    for entry in (folder, other):
        (entry / "images" / "00").mkdir(parents=True)
        (entry / "records.jsonl").write_text("")
        entry.with_name(f"{entry.name}.staging-1-x").mkdir()
    Shelf(settings.datasets).refuse(folder, code="internal", message="m", remedy="r")
    assert {path.name for path in folder.iterdir()} == {"request.json", "refused.json"}
    assert {path.name for path in other.iterdir()} == {"request.json", "archive.zip", "images", "records.jsonl"}
    assert [path.name for path in settings.datasets.glob("*.staging-*")] == [f"{other.name}.staging-1-x"]


def test_a_ready_data_set_is_not_refused(settings: Settings) -> None:
    folder = waiting(settings)
    (folder / "images").mkdir()
    (folder / "dataset.json").write_text("{}")
    shelf = Shelf(settings.datasets)
    shelf.refuse(folder, code="internal", message="m", remedy="r")  # its last child died just when another host's was done
    assert shelf.entry(folder.name).state is EntryState.READY and (folder / "images").exists()


def test_an_import_that_this_machine_cannot_do_now_is_tried_until_it_can(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "IDLE_SECONDS", 0.05)
    large, small = waiting(settings), waiting(settings)
    os.utime(large / "request.json", (0, 0))
    code = f"""
import pathlib, sys
folder = pathlib.Path(sys.argv[1])
with open(folder / "tries", "a") as file: file.write("x")
if folder.name == {large.name!r} and len((folder / "tries").read_text()) <= {2 * MAX_DEATHS}:
    sys.exit({NOT_NOW})
(folder / "dataset.json").write_text("{{}}")
"""
    importer = run_importer(settings, code)
    shelf = Shelf(settings.datasets)
    wait_for(lambda: shelf.entry(large.name).state is not EntryState.IMPORTING, what="the end of the large import")
    assert shelf.entry(large.name).state is EntryState.READY and NOT_NOW == 75
    assert (small / "tries").read_text() == "x" and shelf.entry(small.name).state is EntryState.READY
    importer.close()


def test_what_cannot_be_imported_now_holds_up_nothing_else(settings: Settings) -> None:
    large, small = waiting(settings), waiting(settings)
    os.utime(large / "request.json", (0, 0))
    code = f"""
import pathlib, sys
folder = pathlib.Path(sys.argv[1])
if folder.name == {large.name!r}:
    with open(folder / "tries", "a") as file: file.write("x")
    sys.exit({NOT_NOW})
(folder / "dataset.json").write_text("{{}}")
"""
    importer = run_importer(settings, code)
    shelf = Shelf(settings.datasets)
    wait_for(lambda: shelf.entry(small.name).state is EntryState.READY, what="the small import")
    importer.close()
    assert (large / "tries").read_text() == "x" and (large / "archive.zip").exists()


def waiting(settings: Settings) -> Path:
    folder = Shelf(settings.datasets).reserve()
    Shelf(settings.datasets).accept(folder, {"labels": None, "rule": "auto", "seed": 0})
    (folder / "archive.zip").write_bytes(b"")
    return folder


def run_importer(settings: Settings, code: str, *, leadership: Leadership | None = None) -> Importer:
    """An importer whose child is this program; its arguments are the folder."""
    leadership = leadership or Leadership(create_engine(settings.database), "importer")
    importer = Importer(settings, Shelf(settings.datasets), leadership, command=(sys.executable, "-c", code))
    importer.start()
    return importer


def test_only_the_leader_imports_and_another_takes_over(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "IDLE_SECONDS", 0.05)
    code = """
import pathlib, sys
with open(pathlib.Path(sys.argv[1], "imports"), "a") as file: file.write("x")
pathlib.Path(sys.argv[1], "dataset.json").write_text("{}")
"""
    leader = run_importer(settings, code)
    shelf = Shelf(settings.datasets)
    first = waiting(settings)
    wait_for(lambda: shelf.entry(first.name).state is EntryState.READY, what="the first import")
    follower = run_importer(settings, code)
    several = [waiting(settings) for _ in range(4)]
    follower.wake()
    wait_for(lambda: all(shelf.entry(folder.name).state is EntryState.READY for folder in several), what="the leader to look by itself")
    leader.close()
    last = waiting(settings)
    wait_for(lambda: shelf.entry(last.name).state is EntryState.READY, what="the follower to lead")
    assert {(folder / "imports").read_text() for folder in (first, *several, last)} == {"x"}
    follower.close()


def test_an_importer_that_leads_no_more_ends_its_child_and_counts_no_death(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, postgres: Postgres, postgresql_url: str,
) -> None:
    monkeypatch.setattr(importing, "IDLE_SECONDS", 0.05)
    engine = create_engine(postgresql_url)
    folder = waiting(settings)
    code = """
import os, pathlib, sys, time
with open(pathlib.Path(sys.argv[1], "children"), "a") as file: file.write(f"{os.getpid()} ")
time.sleep(600)
"""

    def children() -> list[str]:
        return (folder / "children").read_text().split() if (folder / "children").exists() else []

    importer = run_importer(settings, code, leadership=Leadership(engine, "importer"))
    number = lock_number("leader importer")
    for _ in range(MAX_DEATHS + 1):
        wait_for(lambda: bool(children()) and Path("/proc", children()[-1]).exists(), what="a child")
        with engine.connect() as rival, ThreadPoolExecutor(1) as pool:
            waiting_rival = pool.submit(rival.exec_driver_sql, f"SELECT pg_advisory_lock({number})")
            wait_for(lambda: bool(postgres.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")), what="the rival")
            postgres.execute("SELECT pg_terminate_backend(pid, 10000) FROM pg_locks WHERE locktype = 'advisory' AND granted")
            waiting_rival.result()
            wait_for(lambda: not Path("/proc", children()[-1]).exists(), what="the child's end")
            rival.exec_driver_sql(f"SELECT pg_advisory_unlock({number})")
    importer.close()
    assert Shelf(settings.datasets).entry(folder.name).state is EntryState.IMPORTING
    engine.dispose()


def test_an_import_that_dies_three_times_is_refused_and_the_next_one_is_done(settings: Settings) -> None:
    poison = waiting(settings)
    code = f"""
import os, pathlib, signal, sys
folder = pathlib.Path(sys.argv[1])
if folder.name == {poison.name!r}:
    with open(folder / "deaths", "a") as file: file.write("x")
    os.kill(os.getpid(), signal.SIGKILL)
(folder / "dataset.json").write_text("{{}}")
"""
    importer = run_importer(settings, code)
    shelf = Shelf(settings.datasets)
    wait_for(lambda: shelf.entry(poison.name).state is EntryState.REFUSED, what="the refusal")
    refused = shelf.entry(poison.name).describe()["error"]
    assert refused["code"] == "internal" and "-9" in refused["message"]
    wait_for(lambda: not (poison / "archive.zip").exists(), what="the archive's end")
    assert (poison / "deaths").read_text() == "x" * MAX_DEATHS
    following = waiting(settings)
    importer.wake()
    wait_for(lambda: shelf.entry(following.name).state is EntryState.READY, what="the next import")
    importer.close()


def test_closing_ends_the_child_and_keeps_the_upload(settings: Settings) -> None:
    folder = waiting(settings)
    code = """
import os, pathlib, sys, time
pathlib.Path(sys.argv[1], "child").write_text(f"{os.getpid()} {os.nice(0)} {'CATDOG_REDIS_URL' in os.environ}")
time.sleep(600)
"""
    importer = run_importer(settings.model_copy(update={"redis_url": "redis://user:secret@localhost"}), code)
    wait_for(lambda: (folder / "child").exists() and (folder / "child").read_text() != "", what="the child")
    pid, niceness, knows_redis = (folder / "child").read_text().split()
    assert int(niceness) >= os.nice(0) + 10 and knows_redis == "False"
    importer.close()
    assert not Path("/proc", pid).exists()
    assert Shelf(settings.datasets).entry(folder.name).state is EntryState.IMPORTING
