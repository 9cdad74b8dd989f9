"""Under load: places are counted, who finds none is told so at once, who leaves is forgotten, health and metrics answer all the while."""

import asyncio
import errno
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import REGISTRY

from catdog import device
from catdog.errors import TooLarge, Unavailable
from catdog.inference import Prediction, Predictor
from catdog.settings import Settings
from service import admission as admission_module
from service import lookout
from service.admission import Admission
from service.lookout import Lookout
from tests.serving import OPERATORS_PATIENCE_SECONDS, SIZE, Service, is_problem, picture, publish, wait_for

pytest_plugins = ("tests.service_fixtures",)

RED = picture((250, 10, 0))


class Stuck(Predictor):
    """Computes when the gate is opened."""

    gate: threading.Event
    entered: threading.Semaphore

    def predict(self, pixels: NDArray[np.uint8], **options: Any) -> list[Prediction]:
        self.entered.release()
        assert self.gate.wait(60)
        return super().predict(pixels, **options)


@contextmanager
def busy(service: Service) -> Iterator[None]:
    """Every thread that computes is at work inside."""
    stuck = Stuck.load(next(path for path in service.settings.models.iterdir()), device="cpu")
    assert isinstance(stuck, Stuck)
    stuck.gate, stuck.entered = threading.Event(), threading.Semaphore(0)
    for _ in range(device.cores()):
        service.parts.predictors._batching.submit(stuck, np.zeros((1, SIZE, SIZE, 3), np.uint8), alone=False)
        assert stuck.entered.acquire(timeout=20)
    try:
        yield
    finally:
        stuck.gate.set()


@pytest.fixture
def served(settings: Settings, serve: Callable[[Settings], Service]) -> Service:
    """Two places, and no more."""
    service = serve(settings.model_copy(update={"max_predictions": 2}))
    service.wait_until_served(publish(service.parts).version)
    return service


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def inside() -> float:
    return counted("catdog_predict_inside")


def post(service: Service, **options: Any) -> httpx.Response:
    return httpx.post(f"{service.client.base_url}/v1/predict", files={"file": RED}, timeout=60, **options)


def test_who_finds_no_place_is_turned_away_at_once_and_health_answers(served: Service) -> None:
    refused = counted("catdog_predict_refused_total", reason="full")
    with ThreadPoolExecutor(2) as clients:
        with busy(served):
            waiting = [clients.submit(post, served) for _ in range(2)]
            wait_for(lambda: inside() == 2, what="both places to be taken")
            problem = post(served)
            is_problem(problem, 503, "unavailable")
            assert problem.headers["retry-after"] and not any(one.done() for one in waiting)
            assert served.client.get("/health/live").status_code == served.client.get("/health/ready").status_code == 200
            assert "catdog_predict_inside 2.0" in served.client.get("/metrics").text
        assert [one.result().json()["label"] for one in waiting] == ["cat", "cat"]
    assert counted("catdog_predict_refused_total", reason="full") == refused + 1 and inside() == 0


def test_who_has_no_place_is_not_listened_to(served: Service) -> None:
    """The refusal comes before any of the picture has been sent."""
    with ThreadPoolExecutor(2) as clients, busy(served):
        waiting = [clients.submit(post, served) for _ in range(2)]
        wait_for(lambda: inside() == 2, what="both places to be taken")
        with socket.create_connection(("127.0.0.1", served.port), timeout=20) as client:
            client.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 9000000\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 503")
        assert len(waiting) == 2


def test_a_picture_that_waits_too_long_gives_up_its_place(settings: Settings, serve: Callable[[Settings], Service]) -> None:
    service = serve(settings.model_copy(update={"predict_seconds": 0.5}))
    service.wait_until_served(publish(service.parts).version)
    late = counted("catdog_predict_refused_total", reason="deadline")
    with busy(service):
        assert "0.5 seconds" in is_problem(post(service), 503, "unavailable")["detail"]
        assert inside() == 0 and not [one for one in service.parts.predictors._batching._waiting if not one.answer.cancelled()]
    assert post(service).json()["label"] == "cat"
    assert counted("catdog_predict_refused_total", reason="deadline") == late + 1


def test_who_leaves_is_forgotten(served: Service) -> None:
    left = counted("catdog_predict_refused_total", reason="client_left")
    with busy(served):
        head = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: {len(RED)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", served.port)) as client:
            client.sendall(head.encode() + RED)
            wait_for(lambda: len(served.parts.predictors._batching._waiting) == 1, what="the picture to wait")
        wait_for(lambda: inside() == 0, what="the place to be free")
        (waiting,) = served.parts.predictors._batching._waiting
        assert waiting.answer.cancelled()
    assert post(served).json()["label"] == "cat"
    assert counted("catdog_predict_refused_total", reason="client_left") == left + 1


def test_who_leaves_after_a_large_picture_is_forgotten(served: Service) -> None:
    """The protocol stops reading in the middle of such a body."""
    left = counted("catdog_predict_refused_total", reason="client_left")
    body = RED + bytes(300_000)
    with busy(served):
        head = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", served.port)) as client:
            client.sendall(head.encode())
            wait_for(lambda: served.parts.admission._held == len(body), what="the head to be read")
            client.sendall(body)
            wait_for(lambda: len(served.parts.predictors._batching._waiting) == 1, what="the picture to wait")
        wait_for(lambda: inside() == 0, what="the place to be free")
        (waiting,) = served.parts.predictors._batching._waiting
        assert waiting.answer.cancelled()
    assert counted("catdog_predict_refused_total", reason="client_left") == left + 1


def test_who_leaves_with_more_requests_behind_is_forgotten_too(served: Service, caplog: pytest.LogCaptureFixture) -> None:
    left = counted("catdog_predict_refused_total", reason="client_left")
    with busy(served):
        head = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: {len(RED)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", served.port)) as client:
            client.sendall(2 * (head.encode() + RED))
            wait_for(lambda: len(served.parts.predictors._batching._waiting) == 1, what="the first picture to wait")
        wait_for(lambda: inside() == 0, what="the place to be free")
    assert post(served).json()["label"] == "cat"
    assert counted("catdog_predict_refused_total", reason="client_left") == left + 1
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_health_answers_while_everything_is_busy_and_the_database_hangs(served: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookout, "PATIENCE_SECONDS", OPERATORS_PATIENCE_SECONDS)
    seen, hangs, goes_on = served.client.get("/health/ready").json(), threading.Event(), threading.Event()

    def hang() -> dict[str, int]:
        hangs.set()
        assert goes_on.wait(60)
        return {}

    monkeypatch.setattr(served.parts.registry, "aliases", hang)
    with ThreadPoolExecutor(2) as clients, busy(served):
        try:
            waiting = [clients.submit(post, served) for _ in range(2)]
            wait_for(lambda: inside() == 2, what="both places to be taken")
            answers = [served.client.get("/health/ready", timeout=10) for _ in range(2)]
            assert hangs.wait(10) and not goes_on.is_set() and not any(one.done() for one in waiting)
        finally:
            goes_on.set()
    assert [answer.json()["models"] for answer in answers] == [seen["models"]] * 2


def test_room_is_counted_and_given_back() -> None:
    admission = Admission(1, seconds=60, room=9)
    expected = pytest.raises(Unavailable, match=r"at most 9 bytes together\. Received: 1 more")
    with admission.room(4), admission.room(5), expected, admission.room(1):
        pass
    with admission.room(9), pytest.raises(Unavailable, match="TMPDIR"), admission.room(0):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="other"), admission.room(9):
        raise OSError(errno.EIO, "other")
    with admission.room(9):
        pass
    with pytest.raises(TooLarge, match="at most 9 bytes"), admission.room(10):
        pass


def test_who_does_not_send_what_was_announced_gives_the_room_back(
    settings: Settings, serve: Callable[[Settings], Service], monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admission_module, "RECEIVE_SECONDS", 0.1)
    service = serve(settings)
    service.wait_until_served(publish(service.parts).version)
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as client:
        client.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 29000\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 503")
        wait_for(lambda: service.parts.admission._held == 0, what="the room")


@pytest.mark.parametrize(("path", "kind"), [
    ("/v1/predict", "image/png"), ("/v1/predict/batch", "multipart/form-data; boundary=x"),
    ("/v2/models/champion/infer", "application/json"),
])
def test_who_finds_no_room_is_not_listened_to(settings: Settings, serve: Callable[[Settings], Service], path: str, kind: str) -> None:
    service = serve(settings.model_copy(update={"max_predictions_bytes": 30_000}))
    service.wait_until_served(publish(service.parts).version)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"

    def connect(length: str) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", service.port), timeout=20)
        client.sendall(f"{head}{length}\r\n\r\n".encode())
        return client

    with connect("Content-Length: 29000"):
        wait_for(lambda: service.parts.admission._held == 29_000, what="the slow sender")
        with connect("Content-Length: 2000") as client:
            refusal = client.recv(4096)
        assert refusal.startswith(b"HTTP/1.1 503") and b"retry-after" in refusal.lower()
        with connect("Transfer-Encoding: chunked") as client:  # it may be as long as the route allows, and for that there is never room
            assert client.recv(4096).startswith(b"HTTP/1.1 413")
        assert service.client.get("/health/live").status_code == 200
    wait_for(lambda: service.parts.admission._held == 0, what="the slow sender's end")
    assert post(service).json()["label"] == "cat" and service.parts.admission._held == 0


def test_pixels_are_admitted_and_computed_picture_by_picture(settings: Settings, serve: Callable[[Settings], Service]) -> None:
    service = serve(settings)
    service.wait_until_served(publish(service.parts).version)
    pixels, together = np.full((20, SIZE, SIZE, 3), (250, 10, 0), np.uint8), min(20, 2 * device.cores())
    inputs = [{"name": "pixels", "datatype": "UINT8", "shape": pixels.shape, "data": pixels.ravel().tolist()}]
    with ThreadPoolExecutor(1) as client:
        with busy(service):
            waiting = client.submit(service.client.post, "/v2/models/champion/infer", json={"inputs": inputs})
            wait_for(lambda: inside() == together, what="as many as one request may have under way")
            assert [len(one.pixels) for one in service.parts.predictors._batching._waiting] == [1] * together
        labels = next(one["data"] for one in waiting.result().json()["outputs"] if one["name"] == "label")
    assert labels == ["cat"] * 20 and inside() == 0


def test_who_is_alone_is_known() -> None:
    async def work() -> list[bool]:
        admission, seen = Admission(2, seconds=60, room=9), []
        async with admission.place():
            seen.append(admission.is_alone)
            async with admission.place():
                seen.append(admission.is_alone)
                with pytest.raises(Unavailable, match="at most 2"):
                    async with admission.place():
                        pass
            seen.append(admission.is_alone)
        return seen

    assert asyncio.run(work()) == [True, False, True]


def test_metrics_tell_every_stage_and_route(served: Service) -> None:
    before = {stage: counted("catdog_predict_stage_seconds_count", stage=stage) for stage in ("receive", "decode", "queue", "infer")}
    post(served)
    pixels = {"name": "pixels", "datatype": "UINT8", "shape": [1, SIZE, SIZE, 3], "data": [0] * SIZE * SIZE * 3}
    served.client.post("/v2/models/champion/infer", json={"inputs": [pixels]})
    served.client.post("/v1/predict/batch", files={"files": RED})
    times = {"receive": 3, "decode": 2, "queue": 5, "infer": 3}
    assert {stage: counted("catdog_predict_stage_seconds_count", stage=stage) - before[stage] for stage in before} == times
    served.client.request("PROPFIND", "/v1/models/7")
    answer = served.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert 'catdog_http_request_seconds_count{method="POST",route="/v1/predict",status="200"}' in answer.text
    assert 'method="other"' in answer.text and "PROPFIND" not in answer.text and "/v1/models/7" not in answer.text
    assert "process_resident_memory_bytes" in answer.text


def test_metrics_need_the_token(settings: Settings, serve: Callable[[Settings], Service]) -> None:
    token = settings.root / "token"
    token.write_text("a-token-of-some-length")
    service = serve(settings.model_copy(update={"token_file": token}))
    is_problem(service.client.get("/metrics"), 401, "unauthorized")
    assert service.client.get("/metrics", headers={"Authorization": "Bearer a-token-of-some-length"}).status_code == 200


def test_a_look_that_takes_long_is_answered_by_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookout, "PATIENCE_SECONDS", 0.01)
    gate, looks = threading.Event(), []

    def slow() -> str:
        looks.append(1)
        assert gate.wait(20)
        return "new"

    async def work() -> list[str | None]:
        watch: Lookout[str] = Lookout()
        never = await watch.see(slow)
        gate.set()
        while (now := await watch.see(lambda: "old")) is None:
            pass
        gate.clear()
        seen = [never, now, await watch.see(slow), await watch.see(slow)]
        monkeypatch.setattr(lookout, "STALE_SECONDS", 0.0)
        seen.append(await watch.see(slow))
        gate.set()
        watch.close()
        return seen

    assert asyncio.run(work()) == [None, "new", "new", "new", None]
    assert len(looks) == 2  # never two at a time
