"""service/routes/v2.py, tensors.py: the Open Inference Protocol, asked by Triton's own client and by hand."""

import base64
import json
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from catdog.images import Preprocess, decode
from service import tensors
from service.door import MAX_TENSOR_JSON_BYTES
from service.routes import v2
from tests.serving import SIZE, Service, is_problem, picture, publish

pytest_plugins = ("tests.service_fixtures",)

RED, GREEN = picture((250, 10, 0)), picture((10, 250, 0))
INFER = "/v2/models/champion/infer"
LENGTH = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def served(shared_service: Service) -> Service:
    """Version 1 is the champion, 2 has never been."""
    first = publish(shared_service.parts)
    publish(shared_service.parts, promote="never", labels=("kitten", "puppy"), gain=2.0)
    shared_service.wait_until_served(first.version)
    return shared_service


@pytest.fixture
def client(served: Service) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{served.port}") as client:
        yield client


def images(*pictures: bytes) -> triton.InferInput:
    tensor = triton.InferInput("image", [len(pictures)], "BYTES")
    return tensor.set_data_from_numpy(np.array(pictures, dtype=object))


def pixels_of(*pictures: bytes) -> NDArray[np.uint8]:
    return np.stack([Preprocess(image_size=SIZE).pixels(decode(data)) for data in pictures])


def test_triton_s_client_lists_and_asks_whether_all_is_ready(served: Service, client: triton.InferenceServerClient) -> None:
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("champion") and client.is_model_ready("champion", "1") and client.is_model_ready("2")
    assert not client.is_model_ready("champion", "2") and not client.is_model_ready("nobody") and not client.is_model_ready("99")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data", "classification"]
    assert client.get_model_repository_index() == [{"name": "champion", "version": "1", "state": "READY", "reason": ""}]
    metadata = client.get_model_metadata("champion")
    assert metadata == client.get_model_metadata("champion", "1") and metadata["versions"] == ["1"]
    assert {"name": "pixels", "datatype": "UINT8", "shape": [-1, SIZE, SIZE, 3]} in metadata["inputs"]
    assert {"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]} in metadata["outputs"]
    assert client.get_model_metadata("2")["versions"] == ["2"]


def test_triton_s_client_sends_pictures(served: Service, client: triton.InferenceServerClient) -> None:
    result = client.infer("champion", [images(RED, GREEN, RED)], request_id="mine")
    assert result.get_response()["id"] == "mine" and result.get_response()["model_version"] == "1"
    assert [*result.as_numpy("label")] == [b"cat", b"dog", b"cat"] and [*result.as_numpy("decision")] == [b"label"] * 3
    alone = served.client.post("/v1/predict", content=RED, headers={"Content-Type": "image/png"}).json()
    assert result.as_numpy("probabilities")[0] == pytest.approx([*alone["probabilities"].values()], abs=1e-6)
    assert result.as_numpy("confidence")[0] == pytest.approx(alone["confidence"], abs=1e-6)
    as_json = [triton.InferRequestedOutput(name, binary_data=False) for name in ("label", "probabilities")]
    again = client.infer("champion", [images(RED, GREEN, RED)], model_version="1", outputs=as_json)
    assert np.array_equal(again.as_numpy("probabilities"), result.as_numpy("probabilities")) and again.as_numpy("confidence") is None


@pytest.mark.parametrize("is_binary", [True, False])
def test_triton_s_client_sends_pixels(client: triton.InferenceServerClient, is_binary: bool) -> None:
    pixels = pixels_of(RED, GREEN)
    tensor = triton.InferInput("pixels", list(pixels.shape), "UINT8").set_data_from_numpy(pixels, binary_data=is_binary)
    result = client.infer("champion", [tensor])
    assert np.array_equal(result.as_numpy("probabilities"), client.infer("champion", [images(RED, GREEN)]).as_numpy("probabilities"))


def test_triton_s_client_asks_for_classes(client: triton.InferenceServerClient) -> None:
    for count, shape in ((1, (2, 1)), (2, (2, 2)), (5, (2, 2))):
        wanted = triton.InferRequestedOutput("probabilities", class_count=count)
        best = client.infer("champion", [images(RED, GREEN)], outputs=[wanted]).as_numpy("probabilities")
        assert best.shape == shape
        texts = [text.decode().split(":") for text in best[:, 0]]
        assert [(index, label) for _, index, label in texts] == [("0", "cat"), ("1", "dog")]
        assert all(0.5 < float(value) <= 1 for value, _, _ in texts)


def test_triton_s_client_is_told_what_is_wrong(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match=r"\[422\] Picture 1: Expected a whole, readable picture"):
        client.infer("champion", [images(RED, GREEN[:60])])
    with pytest.raises(InferenceServerException, match=r"\[404\] Expected a version that champion means or has meant"):
        client.infer("champion", [images(RED)], model_version="2")
    for compression in ("gzip", "deflate"):
        with pytest.raises(InferenceServerException, match=r"\[415\] Expected an uncompressed body"):
            client.infer("champion", [images(RED)], request_compression_algorithm=compression)
    with pytest.raises(InferenceServerException, match=r"\[404\] Expected an address of this service"):
        client.load_model("champion")


def test_a_client_of_kserve_sends_base64_and_reads_booleans(served: Service) -> None:
    get, post = served.client.get, served.client.post
    assert get("/v2/health/live").json() == {"live": True} and get("/v2/health/ready").json()["ready"] is True
    assert get("/v2/models/champion/ready").json()["ready"] is True
    tensor = {"name": "image", "datatype": "BYTES", "shape": [2, 1], "parameters": None,
              "data": [[base64.b64encode(RED).decode()], [base64.b64encode(GREEN).decode()]]}
    request = {"id": None, "model_name": "champion", "inputs": [tensor], "outputs": None, "parameters": None}
    answer = post(INFER, json=request).json()
    outputs = {output["name"]: output for output in answer["outputs"]}
    assert outputs["label"] == {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["cat", "dog"]}
    assert outputs["probabilities"]["shape"] == [2, 2] and outputs["probabilities"]["data"][0] > 0.5
    assert answer["parameters"]["digest"] == served.parts.registry.get(1).digest


def test_a_whole_body_is_one_picture(served: Service) -> None:
    answer = served.client.post("/v2/models/2/infer", content=GREEN, headers={LENGTH: "0"})
    assert next(one["data"] for one in answer.json()["outputs"] if one["name"] == "label") == ["puppy"]


def refused(response: Any, status: int, code: str) -> str:
    problem = is_problem(response, status, code)
    assert problem["error"] == problem["detail"]
    return str(problem["detail"])


def image(**fields: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(RED).decode()], **fields}]}


def pixels(**fields: Any) -> dict[str, Any]:
    return image(**{"name": "pixels", "datatype": "UINT8", "shape": [1, SIZE, SIZE, 3], "data": [1] * (SIZE * SIZE * 3)} | fields)


N = SIZE * SIZE * 3
WRONG: dict[str, Any] = {
    "no object": [],
    "no inputs": {"inputs": []},
    "inputs of another kind": {"inputs": {"image": 1}},
    "two": {"inputs": image()["inputs"] * 2},
    "many": {"inputs": [1] * 100_000},
    "another name": image(name="input"),
    "another type": image(datatype="FP32"),
    "a shape of many": image(shape=[1, 2]),
    "a shape of none": image(shape=[]),
    "no picture": image(shape=[0], data=[]),
    "fewer than the shape": image(shape=[2]),
    "more than the shape": image(data=["aGk="] * 3),
    "negative": image(shape=[-1]),
    "huge": image(shape=[2**40]),
    "not base64": image(data=["!!!"]),
    "not ascii": image(data=["é"]),
    "not text": image(data=[1]),
    "no list": image(data="aGk="),
    "no data": image(data=None),
    "binary size without binary": image(parameters={"binary_data_size": 5}),
    "binary size of another kind": image(parameters={"binary_data_size": "x"}),
    "fractions": pixels(data=[0.5] * N),
    "too bright": pixels(data=[256] * N),
    "below zero": pixels(data=[-1] * N),
    "texts": pixels(data=["x" * 10_000] + [""] * (N - 1)),
    "uneven": pixels(data=[[1, 2], [3]]),
    "a mapping": pixels(data={"a": 1}),
    "nothing in it": pixels(data=[None] * N),
    "beyond any float": pixels(data=[10**400]),
    "too few": pixels(data=[1, 2, 3]),
    "another side": pixels(shape=[1, 8, 8, 3]),
    "floats": pixels(datatype="FP32"),
    "an unknown output": image() | {"outputs": [{"name": "logits"}]},
    "an output twice": image() | {"outputs": [{"name": "probabilities"}, {"name": "label"}, {"name": "probabilities"}]},
    "classes of something else": image() | {"outputs": [{"name": "label", "parameters": {"classification": 1}}]},
    "no classes": image() | {"outputs": [{"name": "probabilities", "parameters": {"classification": 0}}]},
    "classes of another kind": image() | {"outputs": [{"name": "probabilities", "parameters": {"classification": "2"}}]},
    "parameters of another kind": image() | {"parameters": [1]},
    "a long id": image() | {"id": "x" * 10_000},
    "an id of another kind": image() | {"id": 7},
}


@pytest.mark.parametrize("body", WRONG.values(), ids=WRONG)
def test_a_wrong_request_is_refused_with_its_reason(served: Service, body: Any) -> None:
    assert "Received" in refused(served.client.post(INFER, json=body), 422, "bad_input")


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, b'{"id": "\\ud800", "inputs": []}', b"null"])
def test_what_is_no_json_is_refused(served: Service, body: bytes) -> None:
    refused(served.client.post(INFER, content=body), 422, "bad_input")


def binary(elements: bytes, *, header: dict[str, Any] | None = None, length: int | None = None) -> dict[str, Any]:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(elements)}}
    text = json.dumps(header or {"inputs": [tensor]}).encode()
    return {"content": text + elements, "headers": {LENGTH: str(len(text) if length is None else length)}}


@pytest.mark.parametrize("elements", [
    b"", b"\1", b"\1\0\0", b"\5\0\0\0ab", struct.pack("<I", 2**32 - 1) + b"x", b"\0\0\0\0" * 100_000, struct.pack("<I", 1) + b"ab",
])
def test_binary_data_that_is_not_what_it_says_is_refused(served: Service, elements: bytes) -> None:
    refused(served.client.post(INFER, **binary(elements)), 422, "bad_input")


def test_lengths_that_do_not_fit_are_refused(served: Service) -> None:
    post, whole = served.client.post, struct.pack("<I", len(RED)) + RED
    assert post(INFER, **binary(whole)).status_code == 200
    refused(post(INFER, **binary(whole, length=10)), 422, "bad_input")
    refused(post(INFER, **binary(whole, length=10**9)), 422, "bad_input")
    refused(post(INFER, **binary(whole, length=-1)), 422, "bad_input")
    refused(post(INFER, **binary(whole, header=image())), 422, "bad_input")
    refused(post(INFER, content=b"x", headers={LENGTH: "abc"}), 422, "bad_input")
    refused(post(INFER, content=b"", headers={LENGTH: "0"}), 415, "unsupported_type")


def test_limits_hold_before_anything_is_read(served: Service) -> None:
    post = served.client.post
    most = served.settings.max_batch_files
    refused(post(INFER, json=image(shape=[most + 1], data=["aGk="] * (most + 1))), 413, "too_large")
    large = b" " * (MAX_TENSOR_JSON_BYTES + 1)
    refused(post(INFER, content=large), 413, "too_large")
    refused(post(INFER, content=large, headers={LENGTH: str(len(large))}), 413, "too_large")


GROWTH = """
import re, sys
from service.tensors import read, weight

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])

part = sys.argv[1].encode()
head = b'{"inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [1], "data": ['
body = bytearray(head + (part * (2**21 // len(part)))[:-1] + b"]}]}")
before = peak()
read(body, None)
print((peak() - before) / weight(body, None))
"""


@pytest.mark.parametrize("part", ["[],", "[0],", '{"":0},', '"ab",', "0.1,"])
def test_json_takes_no_more_memory_than_is_counted(part: str) -> None:
    share = float(subprocess.run([sys.executable, "-c", GROWTH, part], capture_output=True, text=True, check=True).stdout)
    assert 0.3 < share < 1.05


def test_json_that_becomes_large_finds_no_room(served: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served.parts.admission, "_room", 2**20)
    refused(served.client.post(INFER, json=image(data=[[]] * 5000)), 413, "too_large")
    with served.parts.admission.room(900_000):
        refused(served.client.post(INFER, json=image(data=[[]] * 2000)), 503, "unavailable")
    refused(served.client.post(INFER, json=image(data=["A" * 20_000])), 415, "unsupported_type")
    assert served.parts.admission._held == 0


def test_the_event_loop_is_left_alone_while_an_answer_is_written(served: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    writers = []

    def write(*given: Any) -> Any:
        writers.append(threading.current_thread())
        return tensors.write(*given)

    monkeypatch.setattr(v2, "write", write)
    assert served.client.post(INFER, json=image()).status_code == 200
    assert len(writers) == 1 and writers[0] is not served._thread


def test_every_wrong_address_says_so_in_the_protocol_s_words(served: Service) -> None:
    for method, path, status in (("GET", "/v2/nothing", 404), ("DELETE", "/v2", 405), ("GET", "/v2/models/nobody", 404)):
        problem = served.client.request(method, path).json()
        assert problem["status"] == status and problem["error"] == problem["detail"]
    assert "error" not in served.client.get("/v1/nothing").json()


def test_hostile_files_are_answered_or_refused(served: Service, shared_data: Any) -> None:
    for path in sorted([*shared_data("hostile_images", "crash").iterdir(), *shared_data("hostile_images", "modes").iterdir()]):
        response = served.client.post(INFER, content=path.read_bytes(), headers={LENGTH: "0"})
        assert response.status_code in (200, 413, 415, 422), (path.name, response.text)
