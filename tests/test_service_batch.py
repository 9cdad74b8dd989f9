"""service/routes/batch.py: many pictures in one request; one bad file costs only itself."""

import errno
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from catdog.settings import Settings
from service.answers import Answer
from tests.serving import Service, is_problem, picture, publish

pytest_plugins = ("tests.service_fixtures",)

ROOT = Path(__file__).parent.parent
RED, GREEN = picture((250, 10, 0)), picture((10, 250, 0))


@pytest.fixture(scope="module")
def served(shared_service: Service) -> Service:
    shared_service.wait_until_served(publish(shared_service.parts).version)
    return shared_service


def files(*contents: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("files", (f"{number}.png", data)) for number, data in enumerate(contents)]


def test_each_file_has_an_answer_or_a_problem_in_order_with_its_name(served: Service) -> None:
    contents = [GREEN, b"text", RED, GREEN[:60], picture(size=(4, 4)), RED]
    answer = served.client.post("/v1/predict/batch", files=files(*contents)).json()
    assert (answer["answered"], answer["refused"]) == (3, 3) and answer["model"]["alias"] == "champion"
    items = answer["items"]
    assert [item["name"] for item in items] == [f"{number}.png" for number in range(6)]
    assert [item.get("label") for item in items] == ["dog", None, "cat", None, None, "cat"]
    problems = [item["problem"] for item in items if "problem" in item]
    assert [(one["status"], one["code"]) for one in problems] == [(415, "unsupported_type"), (422, "bad_image"), (422, "bad_image")]
    assert all(one["detail"] and one["remedy"] and one["type"] == f"/problems/{one['code']}" for one in problems)
    assert len({item["prediction_id"] for item in items if "prediction_id" in item}) == 3

    alone = served.client.post("/v1/predict", content=GREEN, headers={"Content-Type": "image/png"}).json()
    assert {**alone, **items[0]}.keys() == {*alone, "name"} and items[0]["probabilities"] == alone["probabilities"]
    assert answer["model"] == alone["model"]


def test_top_k_and_model_are_those_of_predict(served: Service) -> None:
    answer = served.client.post("/v1/predict/batch", params={"top_k": 1, "model": "1"}, files=files(RED, GREEN)).json()
    assert [[*item["probabilities"]] for item in answer["items"]] == [["cat"], ["dog"]] and answer["model"]["alias"] is None
    is_problem(served.client.post("/v1/predict/batch", params={"model": "nobody"}, files=files(RED)), 404, "not_found")


def test_the_event_loop_is_left_alone_while_an_answer_is_written(served: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    writers, to_dict = [], Answer.to_dict

    def shown(self: Answer, top_k: int | None) -> dict[str, Any]:
        writers.append(threading.current_thread())
        return to_dict(self, top_k)

    monkeypatch.setattr(Answer, "to_dict", shown)
    assert served.client.post("/v1/predict/batch", files=files(RED, GREEN)).json()["answered"] == 2
    assert len(writers) == 2 and served._thread not in writers


def test_a_request_that_is_no_such_form_is_refused(served: Service) -> None:
    post = served.client.post
    is_problem(post("/v1/predict/batch", content=RED, headers={"Content-Type": "image/png"}), 415, "unsupported_type")
    is_problem(post("/v1/predict/batch", json=[]), 415, "unsupported_type")
    assert "other" in is_problem(post("/v1/predict/batch", files=[*files(RED), ("other", RED)]), 422, "bad_input")["detail"]
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    for body in (b"--x--\r\n", b"", b"--x\r\n"):
        assert post("/v1/predict/batch", content=body, headers=form).status_code in (400, 422)
    is_problem(post("/v1/predict/batch", content=b"x", headers={"Content-Type": "multipart/form-data"}), 400, "bad_request")
    is_problem(post("/v1/predict/batch", data={"files": "text"}, files=files(RED)), 400, "bad_request")


def test_limits_are_shown_and_kept(settings: Settings, serve: Callable[[Settings], Service]) -> None:
    small = settings.model_copy(update={"max_batch_files": 3, "max_batch_bytes": 100_000, "max_image_bytes": 40_000})
    service = serve(small)
    service.wait_until_served(publish(service.parts).version)
    post = service.client.post
    limits = service.client.get("/v1/system").json()["limits"]
    assert (limits["batch_files"], limits["batch_bytes"]) == (3, 100_000)
    assert is_problem(post("/v1/predict/batch", files=files(*[RED] * 4)), 413, "too_large")["limit"] == 3
    assert is_problem(post("/v1/predict/batch", files=files(*[b""] * 500)), 413, "too_large")["limit"] == 3
    large = RED + b"\0" * 40_000
    items = post("/v1/predict/batch", files=files(RED, large, GREEN)).json()["items"]
    assert [item.get("problem", {}).get("code") for item in items] == [None, "too_large", None]
    assert items[1]["problem"]["limit"] == 40_000
    is_problem(post("/v1/predict/batch", files=files(*[RED + b"\0" * 80_000] * 3)), 413, "too_large")


def test_a_disk_that_is_full_of_forms_is_one_to_come_back_to(served: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", full)
    response = served.client.post("/v1/predict/batch", files=files(RED, RED + bytes(2**21)))
    assert "Received: a full one" in is_problem(response, 503, "unavailable")["detail"] and response.headers["retry-after"]


@pytest.mark.parametrize("name", ["compose.yaml", "docker/compose.scale.yaml"])
def test_the_disk_of_a_container_holds_every_form_that_finds_room(name: str) -> None:
    (size,) = re.findall(r'tmpfs: \["/tmp:size=(\d+)m,', (ROOT / name).read_text())
    assert int(size) * 2**20 > Settings.model_fields["max_predictions_bytes"].default


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "a\u202eb.png", "\U0001f408.png", 'a"b\\c', "x" * 1000, "CON", "%2e%2e"])
def test_a_name_is_only_repeated(served: Service, name: str) -> None:
    (item,) = served.client.post("/v1/predict/batch", files=[("files", (name, RED))]).json()["items"]
    assert item["label"] == "cat" and 0 < len(item["name"]) <= 255


@pytest.fixture(scope="module")
def hostile(shared_data: Callable[..., Path]) -> list[Path]:
    return sorted(path for path in shared_data("hostile_images").rglob("*") if path.is_file())


def in_batches(paths: list[Path], client: httpx.Client) -> Iterator[tuple[Path, int]]:
    """The status of each file."""
    for start in range(0, len(paths), 60):
        some = paths[start : start + 60]
        response = client.post("/v1/predict/batch", files=[("files", (path.name, path.read_bytes())) for path in some])
        assert response.status_code == 200, response.text
        for path, item in zip(some, response.json()["items"], strict=True):
            assert item["name"] == path.name
            yield path, item["problem"]["status"] if "problem" in item else 200


def test_hostile_files_are_answered_or_refused_one_by_one(served: Service, hostile: list[Path]) -> None:
    statuses = dict(in_batches(hostile, served.client))
    assert len(statuses) > 250 and set(statuses.values()) <= {200, 413, 415, 422}
    suite = {path.name: status for path, status in statuses.items() if path.parent.name == "pngsuite"}
    refused = {name for name, status in suite.items() if status != 200}
    assert refused == {name for name in suite if name.startswith("x") or re.match("s0[1-7]", name)}, "the broken, and those below 8 pixels"
