"""service/predictors.py, routes/verify.py: models are swapped under load, and what cannot be served is not."""

import base64
import json
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from sqlalchemy import Engine

from catdog import process
from catdog.database import create_engine, migrate
from catdog.images import decode
from catdog.inference import Predictor
from catdog.jobs import JobStore
from catdog.registry import Model, Registry
from catdog.settings import Settings
from service.predictors import KEPT_VERSIONS, MOST_LOADS, Predictors
from tests.serving import Service, is_problem, make_package, picture, publish, publish_digest, seal, wait_for

pytest_plugins = ("tests.service_fixtures",)

SWAPS = 50
RED = picture((250, 10, 0))
PNG = {"Content-Type": "image/png"}


def flip_a_bit(package: Path) -> Path:
    network = package / "model.onnx"
    data = bytearray(network.read_bytes())
    data[len(data) // 2] ^= 1
    network.write_bytes(data)
    return package


def flip_a_bit_of_the_description(package: Path) -> Path:
    path = package / "package.json"
    path.write_bytes(path.read_bytes().replace(b"0.875", b"0.876"))
    return package


def lose_a_file(package: Path) -> Path:
    (package / "golden" / "1.image").unlink()
    return package


def lose_everything(package: Path) -> Path:
    return package.rename(package.with_name("elsewhere"))


def swap_the_labels(package: Path) -> Path:
    """Whole by its checksums, and every answer would be the wrong one."""
    path = package / "package.json"
    path.write_bytes(path.read_bytes().replace(b'["cat", "dog"]', b'["dog", "cat"]'))
    return sealed(package)


def forget_a_label(package: Path) -> Path:
    path = package / "package.json"
    path.write_bytes(path.read_bytes().replace(b'["cat", "dog"]', b'["cat"]'))
    return sealed(package)


def change_the_golden_logits(package: Path) -> Path:
    logits = package / "golden" / "logits.npy"
    np.save(logits, np.load(logits) + 1)
    return sealed(package)


def put_no_network(package: Path) -> Path:
    (package / "model.onnx").write_bytes(b"nothing")
    return sealed(package)


def sealed(package: Path) -> Path:
    return package.with_name(seal(package))


DAMAGES: dict[Callable[[Path], Path], str] = {
    flip_a_bit: "model.onnx changed", flip_a_bit_of_the_description: "another one", lose_a_file: "FileNotFoundError",
    lose_everything: "FileNotFoundError", swap_the_labels: "['dog', 'cat']", forget_a_label: "shape (2, 1)",
    change_the_golden_logits: "off", put_no_network: "onnxruntime",
}


@pytest.fixture(scope="module")
def served(shared_service: Service) -> Service:
    """A service whose champion is the first version."""
    shared_service.wait_until_served(publish(shared_service.parts).version)
    return shared_service


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_package_that_fails_is_quarantined_and_the_old_one_answers(served: Service, damage: Callable[[Path], Path]) -> None:
    reason, models, post = DAMAGES[damage], served.settings.models, served.client.post
    whole = models / make_package(models, gain=20.0 + list(DAMAGES).index(damage))
    damaged = damage(whole)
    second = publish_digest(served.parts.jobs, served.parts.registry, damaged.name if damaged.name != "elsewhere" else whole.name)
    served.parts.predictors.wake()
    wait_for(lambda: served.parts.predictors.failures() != {}, what="the failure")

    ready = served.client.get("/health/ready")
    assert ready.status_code == 200 and ready.json()["status"] == "degraded" and ready.json()["models"] == {"champion": 1}
    assert ready.json()["failures"]["champion"]["version"] == second.version
    assert reason in ready.json()["failures"]["champion"]["message"] and reason in ready.json()["degraded"]["alias champion"]
    shown = {model["version"]: model["quarantine"] for model in served.client.get("/v1/models").json()["items"]}
    assert shown[1] is None and reason in shown[second.version]
    assert post("/v1/predict", content=RED, headers=PNG).json()["model"]["version"] == 1
    for path in (f"/v1/predict?model={second.version}", f"/v1/models/{second.version}/verify"):
        assert reason in is_problem(post(path, content=RED, headers=PNG), 503, "unavailable")["detail"]
    listed = post("/v2/repository/index").json()
    assert [(one["version"], one["state"]) for one in listed] == [("1", "READY"), (str(second.version), "UNAVAILABLE")]
    assert reason in listed[1]["reason"]
    served.client.put("/v1/models/aliases/champion", json={"version": 1, "force": True})
    wait_for(lambda: served.parts.predictors.failures() == {}, what="the failure to be forgotten")


class Counting(Predictors):
    """Predictors that say how often a package was read."""

    reads = 0

    def _predictor(self, *arguments: Any) -> Predictor:
        self.reads += 1
        return super()._predictor(*arguments)


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    made = create_engine(settings.database)
    migrate(made)
    yield made
    made.dispose()


@pytest.fixture
def counting(settings: Settings, engine: Engine) -> Iterator[Counting]:
    """Predictors whose thread is not started, so that a test says when they follow the aliases."""
    predictors = Counting(Registry(engine), settings.models, device="cpu")
    yield predictors
    predictors.close()


def test_a_package_in_quarantine_is_read_again_only_when_it_has_changed_or_somebody_sets_an_alias(
    counting: Counting, settings: Settings, engine: Engine,
) -> None:
    predictors, package = counting, settings.models / make_package(settings.models)
    publish_digest(JobStore(engine), Registry(engine), package.name)
    flip_a_bit(package)
    for _ in range(5):
        predictors._look()
        for name in (None, "1"):
            with pytest.raises(Exception, match="loadable"):
                predictors.load(name).result()
    assert predictors.reads == 1 and list(predictors.quarantined()) == [1]
    predictors.wake()
    predictors._look()
    assert predictors.reads == 2 and list(predictors.quarantined()) == [1]
    flip_a_bit(package)  # back to what it was
    predictors._look()
    predictors._look()
    assert predictors.reads == 3 and predictors.quarantined() == {} and predictors.serving() == {"champion": 1}


def test_of_many_versions_those_asked_for_last_stay_and_an_alias_takes_the_place_of_none(
    counting: Counting, settings: Settings, engine: Engine,
) -> None:
    champion, *others = [
        publish_digest(JobStore(engine), Registry(engine), make_package(settings.models, gain=1.0 + number)).version
        for number in range(KEPT_VERSIONS + 3)
    ]
    *pinned, next_champion, further = map(str, others)
    registry = Registry(engine)
    registry.set_alias("champion", champion, "the first", force=True)
    counting._look()
    for _ in range(5):
        for version in pinned:
            assert (counting.find(version) or counting.load(version).result()).model.version == int(version)
    assert counting.reads == 1 + KEPT_VERSIONS == len(pinned) + 1
    registry.set_alias("champion", int(next_champion), "the next", force=True)
    counting._look()
    assert all(counting.find(version) for version in [*pinned, next_champion]) and counting.reads == 2 + KEPT_VERSIONS
    assert counting.find(pinned[0]) and counting.load(further).result() is counting.find(further)
    assert [counting.find(version) is None for version in pinned] == [False, True, *[False] * (KEPT_VERSIONS - 2)]


def test_who_waits_for_a_model_holds_no_thread_and_waits_for_one_load_and_not_for_ever(
    settings: Settings, serve: Callable[[Settings], Service], monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = serve(settings.model_copy(update={"predict_seconds": 5}))
    service.wait_until_served(publish(service.parts).version)
    *versions, further = [publish(service.parts, promote="never", gain=1.0 + number).version for number in range(MOST_LOADS + 1)]
    opened, begun, load = threading.Event(), list[int](), Predictors._predictor

    def hang(predictors: Predictors, model: Model, folder: Path) -> Predictor:
        begun.append(model.version)
        opened.wait()
        return load(predictors, model, folder)

    monkeypatch.setattr(Predictors, "_predictor", hang)

    def ask(version: int) -> httpx.Response:
        with httpx.Client(base_url=service.client.base_url, timeout=30, trust_env=False) as client:
            return client.post("/v1/predict", params={"model": str(version)}, content=RED, headers=PNG)

    try:
        with ThreadPoolExecutor(60) as pool:  # more than the service has threads for its routes
            asked = [pool.submit(ask, version) for version in versions * 15]
            wait_for(lambda: len(service.parts.predictors._loads) == MOST_LOADS, what="all to be awaited")
            assert "one more, version" in is_problem(ask(further), 503, "unavailable")["detail"]
            assert service.client.get("/v1/models/aliases").json() == {"aliases": {"champion": 1}}
        assert all("within 5 seconds" in is_problem(one.result(), 503, "unavailable")["detail"] for one in asked)
        assert asked[0].result().headers["retry-after"]
    finally:
        opened.set()
    wait_for(lambda: all(service.parts.predictors.find(str(version)) for version in versions), what="what was given up to be loaded")
    assert sorted(begun) == versions and ask(versions[0]).json()["model"]["version"] == versions[0]


def asked_by_v1(client: httpx.Client) -> tuple[int, str, dict[str, float]]:
    answer = sound(client.post("/v1/predict", content=RED, headers=PNG))
    return answer["model"]["version"], answer["model"]["digest"], answer["probabilities"]


def asked_in_a_batch(client: httpx.Client) -> tuple[int, str, dict[str, float]]:
    answer = sound(client.post("/v1/predict/batch", files=[("files", RED), ("files", RED)]))
    one, other = (item["probabilities"] for item in answer["items"])
    assert one == other
    return answer["model"]["version"], answer["model"]["digest"], one


def asked_by_v2(client: httpx.Client) -> tuple[int, str, dict[str, float]]:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(RED).decode()]}
    wanted = {"name": "probabilities", "parameters": {"classification": 2}}
    answer = sound(client.post("/v2/models/champion/infer", json={"inputs": [tensor], "outputs": [wanted]}))
    texts = [text.split(":") for text in answer["outputs"][0]["data"]]
    return int(answer["model_version"]), answer["parameters"]["digest"], {label: float(value) for value, _, label in texts}


def sound(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


@contextmanager
def running(settings: Settings) -> Iterator[str]:
    """The address of a service in a process of its own."""
    with (settings.root / "service.log").open("wb") as log:
        child = process.start([sys.executable, "-m", "service"], environment=settings.environment(), stdout=log, stderr=log)
        try:
            announcement = settings.root / "service.json"
            wait_for(announcement.exists, what="the service")
            yield json.loads(announcement.read_text())["address"]
        finally:
            process.stop(child, grace_seconds=20)


def test_no_answer_fails_or_mixes_two_models_while_they_are_swapped_fifty_times(settings: Settings) -> None:
    engine = create_engine(settings.database)
    migrate(engine)
    expected = {}
    for number in range(5):  # more than are kept: each swap loads a package
        labels = (f"cat{number}", f"dog{number}")
        digest = make_package(settings.models, labels=labels, gain=1.0 + number)
        model = publish_digest(JobStore(engine), Registry(engine), digest, labels=labels)
        predictor = Predictor.load(settings.models / digest, device="cpu")
        (prediction,) = predictor.predict(predictor.preprocess.pixels(decode(RED))[np.newaxis])
        expected[model.version] = (digest, prediction.probabilities)
    engine.dispose()
    done = threading.Event()
    wrong: list[object] = []
    seen: set[int] = set()

    def keep_asking(ask: Callable[[httpx.Client], tuple[int, str, dict[str, float]]], address: str) -> None:
        with httpx.Client(base_url=address, timeout=30, trust_env=False) as client:
            while not done.is_set():
                try:
                    version, digest, probabilities = ask(client)
                except Exception as error:
                    wrong.append(error)
                    raise
                seen.add(version)
                if digest != expected[version][0] or probabilities != pytest.approx(expected[version][1], abs=2e-6):
                    wrong.append((version, digest, probabilities))

    free = settings.model_copy(update={"port": 0})
    with running(free) as address, httpx.Client(base_url=address, timeout=30, trust_env=False) as client:
        asking = [threading.Thread(target=keep_asking, args=(ask, address)) for ask in (asked_by_v1, asked_in_a_batch, asked_by_v2)]
        for thread in asking:
            thread.start()
        try:
            for version in islice(cycle(expected), SWAPS):
                sound(client.put("/v1/models/aliases/champion", json={"version": version, "force": True}))
                wait_for(lambda: client.get("/health/ready").json()["models"] == {"champion": version}, what="the swap")  # noqa: B023
                seen.clear()
                wait_for(lambda: version in seen, what="an answer")  # noqa: B023
        finally:
            done.set()
            for thread in asking:
                thread.join()
    assert wrong == []


def test_a_model_is_verified_by_its_own_http_route(service: Service) -> None:
    model = publish(service.parts)
    service.wait_until_served(model.version)
    for name in ("champion", str(model.version)):
        report = service.client.post(f"/v1/models/{name}/verify").json()
        assert report["passed"] and report["model"]["digest"] == model.digest
        assert [one["name"] for one in report["pictures"]] == ["0.image", "1.image"]
        assert all(one["passed"] and one["difference"] < 1e-5 for one in report["pictures"]) and 0 < report["tolerance"] < 0.01
    is_problem(service.client.post("/v1/models/nobody/verify"), 404, "not_found")


def test_verify_names_the_picture_that_is_answered_otherwise(service: Service) -> None:
    model = publish(service.parts)
    service.wait_until_served(model.version)
    golden = service.settings.models / model.digest / "golden"
    (golden / "0.image").write_bytes(picture((190, 30, 0)))  # after the model was loaded
    (golden / "1.image").write_bytes(b"nothing")
    report = service.client.post("/v1/models/champion/verify").json()
    assert not report["passed"]
    first, second = report["pictures"]
    assert not first["passed"] and report["tolerance"] < first["difference"] < 1
    assert not second["passed"] and second["difference"] is None and second["received"].startswith("415 unsupported_type")
    (golden / "logits.npy").unlink()
    is_problem(service.client.post("/v1/models/champion/verify"), 503, "corrupt_package")


def test_verify_shows_the_token_and_takes_no_thread(settings: Settings, serve: Callable[[Settings], Service]) -> None:
    """More of them at once than the service has threads for its routes."""
    token = settings.root / "token"
    token.write_text("a token of sixteen characters and more\n")
    service = serve(settings.model_copy(update={"token_file": token}))
    service.client.headers["Authorization"] = f"Bearer {token.read_text().strip()}"
    service.wait_until_served(publish(service.parts).version)
    answers: list[bool] = []

    def ask() -> None:
        answers.append(service.client.post("/v1/models/champion/verify", timeout=60).json()["passed"])

    asking = [threading.Thread(target=ask) for _ in range(50)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert answers == [True] * 50
