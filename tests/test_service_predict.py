"""service/routes/predict.py, routes/models.py, predictors.py: published models answer, and are swapped without a restart."""

import base64
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from catdog.database import create_engine, migrate
from catdog.images import Preprocess, decode
from catdog.inference import Predictor
from catdog.jobs import JobStore
from catdog.registry import Registry
from catdog.settings import Settings
from service.predictors import Predictors
from tests.serving import SIZE, Service, is_problem, make_package, picture, publish, publish_digest

pytest_plugins = ("tests.service_fixtures",)

THREADS = 40
"""So many routes that are no coroutines run at once; starlette has anyio's number."""
RED, GREEN = picture((250, 10, 0)), picture((10, 250, 0))


@pytest.fixture(scope="module")
def served(shared_service: Service) -> Iterator[Service]:
    shared_service.wait_until_served(publish(shared_service.parts).version)
    yield shared_service


def test_before_any_model_there_is_none(service: Service) -> None:
    is_problem(service.client.post("/v1/predict", files={"file": RED}), 503, "no_model")
    assert service.client.post("/v1/predict", files={"file": RED}).headers["retry-after"]
    is_problem(service.client.post("/v1/predict", params={"model": "7"}, files={"file": RED}), 404, "not_found")


def test_a_picture_is_answered(served: Service) -> None:
    raw = served.client.post("/v1/predict", content=GREEN, headers={"Content-Type": "image/png"}).json()
    form = served.client.post("/v1/predict", files={"file": ("a.png", GREEN, "image/png")}).json()
    assert raw["label"] == form["label"] == "dog" and raw["decision"] == "label" and raw["reason"] is None and raw["warnings"] == []
    assert 0 <= raw["distance"] < 0.01 and "explanation" not in raw
    assert raw["probabilities"] == form["probabilities"] and raw["confidence"] == raw["probabilities"]["dog"]
    assert raw["prediction_id"] != form["prediction_id"]
    model = served.parts.registry.list()[-1]
    assert raw["model"] == {"version": model.version, "alias": "champion", "digest": model.digest}
    assert set(raw["timings_ms"]) == {"decode", "infer", "total"}
    predictor = Predictor.load(served.settings.models / model.digest)
    expected = predictor.predict(predictor.preprocess.pixels(decode(GREEN))[np.newaxis])[0]
    assert raw["probabilities"] == pytest.approx(expected.probabilities, abs=1e-6)


def test_a_picture_of_nothing_known_gets_no_label_and_the_reason(service: Service) -> None:
    unfamiliar = publish(service.parts, distance=0.3)
    unsure = publish(service.parts, promote="never", gain=0.1, confidence=0.9)
    service.wait_until_served(unfamiliar.version)
    blue = picture((20, 0, 250))
    for model, reason in ((unfamiliar, "unfamiliar"), (unsure, "unsure")):
        answer = service.client.post("/v1/predict", params={"model": str(model.version)}, files={"file": blue}).json()
        assert (answer["label"], answer["decision"], answer["reason"]) == (None, "abstain", reason)
        assert answer["confidence"] == max(answer["probabilities"].values()) and sum(answer["probabilities"].values()) == pytest.approx(1)
    assert service.client.post("/v1/predict", files={"file": RED}).json()["label"] == "cat"


def test_it_shows_where_an_answer_comes_from(served: Service) -> None:
    drawn = served.client.post("/v1/predict", params={"explain": "cam"}, files={"file": RED}).json()["explanation"]
    shown = np.asarray(decode(base64.b64decode(drawn["png"])))
    assert drawn["label"] == "cat" and shown.shape == (SIZE, SIZE, 3) and (shown[..., 1] > 60).all(), "all of it speaks for cat"
    array = served.client.post("/v1/predict", params={"explain": "cam_array"}, files={"file": RED}).json()["explanation"]["array"]
    assert np.array_equal(array, np.ones((SIZE, SIZE)))
    is_problem(served.client.post("/v1/predict", params={"explain": "x"}, files={"file": RED}), 422, "bad_input")


def test_a_network_that_has_no_places_says_so(service: Service) -> None:
    service.wait_until_served(publish(service.parts, explains=False).version)
    is_problem(service.client.post("/v1/predict", params={"explain": "cam"}, files={"file": RED}), 422, "explain_unavailable")
    assert service.client.post("/v1/predict", files={"file": RED}).json()["label"] == "cat"


def test_only_the_most_probable(served: Service) -> None:
    answer = served.client.post("/v1/predict", params={"top_k": 1}, files={"file": RED}).json()
    assert list(answer["probabilities"]) == ["cat"]
    is_problem(served.client.post("/v1/predict", params={"top_k": 0}, files={"file": RED}), 422, "bad_input")


@pytest.mark.parametrize(("data", "status", "code"), [
    (b"", 415, "unsupported_type"), (b"text", 415, "unsupported_type"), (GREEN[:60], 422, "bad_image"),
    (picture(size=(4, 4)), 422, "bad_image"), (picture(size=(17_000, 9)), 413, "too_large"),
    (picture(kind="TIFF"), 415, "unsupported_type"),
])
def test_what_is_no_picture_is_refused(served: Service, data: bytes, status: int, code: str) -> None:
    is_problem(served.client.post("/v1/predict", content=data, headers={"Content-Type": "image/png"}), status, code)
    is_problem(served.client.post("/v1/predict", files={"file": ("a.png", data)}), status, code)


def test_another_form_or_type_is_refused(served: Service) -> None:
    post = served.client.post
    assert is_problem(post("/v1/predict", files={"other": RED}), 422, "bad_input")["errors"][0]["pointer"] == "/file"
    is_problem(post("/v1/predict", files=[("file", RED), ("file", RED)]), 400, "bad_request")
    is_problem(post("/v1/predict", data={"file": "text"}, files={"other": RED}), 422, "bad_input")
    for kind in ("multipart/form-data", "multipart/form-data; boundary=b", f"multipart/form-data; boundary={'b' * 300}"):
        is_problem(post("/v1/predict", content=b"x", headers={"Content-Type": kind}), 400, "bad_request")
    is_problem(post("/v1/predict", data={str(number): "x" for number in range(9)}, files={"file": RED}), 400, "bad_request")
    fields = {"before": "\r\n--", "é": "x"}
    assert post("/v1/predict", data=fields, files={"file": RED}).json()["label"] == "cat"
    detail = is_problem(post("/v1/predict", json={}), 415, "unsupported_type")["detail"]
    for kind in ("image/png", "application/octet-stream"):
        assert kind.replace("/png", "/*") in detail
        assert post("/v1/predict", content=RED, headers={"Content-Type": kind}).status_code == 200
    is_problem(post("/v1/predict", params={"model": "nobody"}, files={"file": RED}), 404, "not_found")


def test_a_prediction_waits_for_no_other_request(service: Service) -> None:
    service.wait_until_served(publish(service.parts).version)
    opened = threading.Event()
    inside = threading.Semaphore(0)

    def hang() -> None:
        inside.release()
        opened.wait()

    service.app.add_api_route("/hanging", hang, include_in_schema=False)
    hanging = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(50)]
    try:
        for connection in hanging:
            connection.sendall(b"GET /hanging HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for _ in range(THREADS):
            assert inside.acquire(timeout=20)
        answer = service.client.post("/v1/predict", content=RED, headers={"Content-Type": "image/png"}, timeout=20)
        assert answer.json()["label"] == "cat" and not inside.acquire(blocking=False)
    finally:
        opened.set()
        for connection in hanging:
            connection.close()


def test_models_and_aliases_are_shown(service: Service) -> None:
    first, second = publish(service.parts), publish(service.parts, promote="never", gain=2.0)
    get = service.client.get
    listed = get("/v1/models").json()
    assert [model["version"] for model in listed["items"]] == [second.version, first.version]
    assert listed["aliases"] == get("/v1/models/aliases").json()["aliases"] == {"champion": first.version}
    shown = get(f"/v1/models/{second.version}").json()
    assert shown["digest"] == second.digest and shown["package"]["preprocess"] == Preprocess(image_size=SIZE).to_dict()
    assert get("/v1/models/champion").json()["version"] == first.version
    for unknown in ("99", "nobody", "9" * 40, "-1"):
        is_problem(get(f"/v1/models/{unknown}"), 404, "not_found")
    package = service.settings.models / second.digest / "package.json"
    package.write_text(json.dumps(json.loads(package.read_text()) | {"labels": ["dog", "cat"]}))
    is_problem(get(f"/v1/models/{second.version}"), 503, "corrupt_package")


def test_an_alias_is_moved_and_predictions_follow(service: Service) -> None:
    first, second = publish(service.parts), publish(service.parts, promote="never", labels=("kitten", "puppy"))
    service.wait_until_served(first.version)
    put = service.client.put
    wanted = {"version": second.version, "reason": "younger", "force": True}
    assert put("/v1/models/aliases/champion", json=wanted).json()["version"] == second.version
    service.wait_until_served(second.version)
    assert service.client.post("/v1/predict", files={"file": RED}).json()["label"] == "kitten"
    answer = service.client.post("/v1/predict", params={"model": str(first.version)}, files={"file": RED}).json()
    assert answer["label"] == "cat" and answer["model"]["alias"] is None
    assert put("/v1/models/aliases/next", json={"version": first.version}).status_code == 200
    assert service.client.post("/v1/predict", params={"model": "next"}, files={"file": RED}).json()["label"] == "cat"
    assert service.client.get("/v1/models/aliases/champion/history").json()["items"][0]["reason"] == "younger"
    is_problem(put("/v1/models/aliases/champion", json={"version": 99}), 404, "not_found")
    is_problem(put("/v1/models/aliases/Wrong!", json={"version": 1}), 422, "bad_input")
    is_problem(put("/v1/models/aliases/champion", json={"version": 1, "x": 1}), 422, "bad_input")


def test_a_model_published_a_moment_ago_answers_at_once(settings: Settings) -> None:
    engine = create_engine(settings.database)
    migrate(engine)
    model = publish_digest(JobStore(engine), Registry(engine), make_package(settings.models))
    predictors = Predictors(Registry(engine), settings.models, device="cpu")  # its thread is never started
    assert predictors.find(None) is None
    assert predictors.load(None).result().model == model
    predictors.close()
    engine.dispose()


def test_packages_of_these_tests_are_those_of_the_library(tmp_path: Path) -> None:
    folder = tmp_path / make_package(tmp_path)
    assert Predictor.load(folder).labels == ("cat", "dog")
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    assert {output.name for output in session.get_outputs()} == {"logits", "features", "activation"}
