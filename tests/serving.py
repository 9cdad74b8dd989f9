"""A real service for the tests: uvicorn on a free port, SQLite, decoders, and model packages small enough to make by hand."""

import asyncio
import io
import json
import os
import threading
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from catdog.calibration import Bank, Calibration
from catdog.files import sha256_of
from catdog.images import Preprocess, decode
from catdog.inference import FORMAT
from catdog.jobs import Claim, JobStore
from catdog.process import Identity
from catdog.registry import Model, Registry
from catdog.settings import Settings
from service import lookout
from service.app import create_app
from service.door import address
from service.parts import Parts
from service.server import Server, listen

OPERATORS_PATIENCE_SECONDS, lookout.PATIENCE_SECONDS = lookout.PATIENCE_SECONDS, 30.0
"""On a busy machine a look takes longer than an operator has patience; what is asked here is what there is, not how soon."""

SIZE = 16
CONFIG = {"dataset": "ds_" + "0" * 32, "model": "resnet18"}


def wait_for(is_true: Callable[[], bool], *, what: str, seconds: float = 20.0) -> None:
    """Poll until something is so; the deadline only ends a test that hangs."""
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, f"waited {seconds} seconds for {what}"
        time.sleep(0.02)


def picture(colour: tuple[int, int, int] = (255, 0, 0), *, size: tuple[int, int] = (40, 30), kind: str = "PNG") -> bytes:
    """One plain picture."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, kind)
    return file.getvalue()


def archive(names: Sequence[str]) -> bytes:
    """A zip with a different small picture under each name."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        for number, name in enumerate(names):
            packed.writestr(name, picture((number % 256, number // 256, 90)))
    return file.getvalue()


def make_package(
    models: Path, *, labels: Sequence[str] = ("cat", "dog"), gain: float = 8.0, bias: float = 0.0, confidence: float = 0.0,
    distance: float = 2.0, explains: bool = True, seen: Sequence[str] = (), **facts: Any,
) -> str:
    """A whole package whose network averages the pixels: red is the first label, green the second. Returns its digest.

    `confidence` and `distance` are its thresholds, by default such that every picture gets a label; its bank holds red and green.
    The first label is given to what is greener by up to `bias`, of 255; `facts` is what else package.json shall say.
    """
    folder = models / "unfinished"
    (folder / "golden").mkdir(parents=True)
    weights = np.zeros((3, len(labels)), np.float32)
    weights[0, 0] = weights[1, 1] = gain / 255
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["float"], ["activation"], perm=[0, 3, 1, 2]),
            helper.make_node("ReduceMean", ["activation", "axes"], ["features"], keepdims=0),
            helper.make_node("MatMul", ["features", "weights"], ["unbiased"]),
            helper.make_node("Add", ["unbiased", "bias"], ["logits"]),
        ],
        "average",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", SIZE, SIZE, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape]) for name, shape in (
            ("logits", [len(labels)]), ("features", [3]), *([("activation", [3, SIZE, SIZE])] if explains else []),
        )],
        [numpy_helper.from_array(value, name) for name, value in (
            ("axes", np.array([2, 3], np.int64)), ("weights", weights),
            ("bias", np.eye(1, len(labels), dtype=np.float32)[0] * np.float32(bias * gain / 255)),
        )],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "model.onnx")
    preprocess = Preprocess(image_size=SIZE)
    golden = [picture((200, 10, 0)), picture((10, 200, 0))]
    for number, data in enumerate(golden):
        (folder / "golden" / f"{number}.image").write_bytes(data)
    pixels = np.stack([preprocess.pixels(decode(data)) for data in golden])
    (logits,) = onnxruntime.InferenceSession(folder / "model.onnx").run(["logits"], {"pixels": pixels})
    np.save(folder / "golden" / "logits.npy", logits)
    (folder / "seen.txt").write_text("\n".join(seen))
    np.save(folder / "head.npy", weights.T)
    Bank.of(np.array([[200, 10, 0], [10, 200, 0]] * 10, np.float32)).save(folder / "bank.npz")
    files = {str(path.relative_to(folder)): sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    manifest = {
        "format": FORMAT, "labels": list(labels), "preprocess": preprocess.to_dict(), "config": CONFIG, "files": files,
        "quantisation": {"served": "float32"}, **Calibration(1.0, confidence, distance).to_dict(), **facts,
    }
    (folder / "package.json").write_text(json.dumps(manifest))
    return seal(folder)


def seal(folder: Path) -> str:
    """Make a package whole by its checksums, whatever is in it, and give its folder the name that says so. Returns its digest."""
    path = folder / "package.json"
    manifest = json.loads(path.read_text())
    manifest["files"] = {name: sha256_of(folder / name) for name in manifest["files"]}
    path.write_text(json.dumps(manifest))
    digest = sha256_of(path)
    folder.rename(folder.with_name(digest))
    return digest


def claim(jobs: JobStore, *, owner: int | None = None) -> Claim:
    """A running job, owned by this process or another."""
    job, _ = jobs.create(CONFIG)
    claimed = jobs.claim(job.id, Identity.of(owner or os.getpid()))
    assert claimed is not None
    return claimed


def publish(parts: Parts, *, promote: Any = "auto", **options: Any) -> Model:
    """A published model with a package of its own."""
    digest = make_package(parts.settings.models, **options)
    return publish_digest(parts.jobs, parts.registry, digest, promote=promote, labels=options.get("labels", ("cat", "dog")))


def publish_digest(
    jobs: JobStore, registry: Registry, digest: str, *, promote: Any = "auto", labels: Sequence[str] = ("cat", "dog"),
) -> Model:
    """A row for a package; with promote=auto it is the champion, whatever the gate says."""
    model = registry.publish(claim(jobs), digest=digest, labels=labels, metrics={}, alias="champion", promote=promote)
    assert model is not None
    if promote == "auto":
        registry.set_alias("champion", model.version, "published by a test", force=True)
    return model


class Service:
    """A running service, and a client of it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.app = create_app(settings)
        self.server = Server(self.app, settings)
        self._listener = listen("127.0.0.1", 0)
        self.port: int = self._listener.getsockname()[1]
        # An idle connection is given up before the service does so after 5 s: who sends just then finds it reset.
        self.client = httpx.Client(
            base_url=address("127.0.0.1", self.port), timeout=30.0, limits=httpx.Limits(keepalive_expiry=1.0),
        )
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        wait_for(lambda: self._is_announced() or not self._thread.is_alive(), what="the service")
        assert self.server.started

    def _is_announced(self) -> bool:
        return self.server.started and (self.settings.root / "service.json").exists()

    def _serve(self) -> None:
        asyncio.run(self.server.serve(sockets=[self._listener]))

    @property
    def parts(self) -> Parts:
        parts: Parts = self.app.state.parts
        return parts

    def wait_until_served(self, version: int) -> None:
        self.parts.predictors.wake()
        wait_for(lambda: self.parts.predictors.serving().get("champion") == version, what=f"model {version}")

    def stop(self) -> None:
        self.client.close()
        self.parts.closing.set()
        self.server.should_exit = True
        self._thread.join()


def is_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Assert that an answer is a problem of the one shape, and return it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["code"] == code and body["type"] == f"/problems/{code}" and body["status"] == status
    assert all(isinstance(body[name], str) and body[name] for name in ("title", "detail", "remedy"))
    assert body["instance"] == response.request.url.path
    assert body["request_id"] == response.headers["x-request-id"]
    assert all(set(wrong) == {"pointer", "detail"} for wrong in body["errors"])
    assert len(response.content) < 8192
    return body
