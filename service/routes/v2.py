"""/v2: the Open Inference Protocol, so that clients of Triton and KServe work unchanged.

A model is an alias, and its versions are those that the alias has meant; the number of a version is also the name of a model with that
version alone. (https://github.com/kserve/open-inference-protocol, with Triton's extensions of binary tensors and classification)
"""

from collections.abc import Iterable
from functools import partial
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Header, Path, Request
from pydantic import BaseModel, ConfigDict
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from catdog import __version__
from catdog.errors import BadInput, CatdogError, NotFound, UnsupportedType
from catdog.inference import Prediction
from catdog.registry import Registry
from service.answers import Answer, Picture, ask_each, served_by
from service.parts import AllParts, Parts
from service.predictors import Served
from service.routes import health
from service.tensors import IMAGE, PIXELS, Inference, Tensor, Values, Wanted, count_of, pictures_of, pixels_of, read, weight, write
from service.watching import leaving

router = APIRouter(prefix="/v2", tags=["open inference protocol"])
router.add_api_route("/health/ready", health.ready)

HEADER_LENGTH = "Inference-Header-Content-Length"
OUTPUTS = {"probabilities": "FP32", "confidence": "FP32", "label": "BYTES", "decision": "BYTES"}
"""What a model answers for each picture; `label` is empty where it abstains."""

Name = Annotated[str, Path(max_length=64, description="An alias, or the number of a version.")]
Version = Annotated[int, Path(ge=1, lt=2**31, description="The number of a version that the alias has meant.")]
HeaderLength = Annotated[int | None, Header(alias=HEADER_LENGTH, ge=0, description="Bytes of JSON before the binary tensors.")]
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_JSON = {"schema": {"type": "object", "description": "An inference request of the Open Inference Protocol."}}
_BODY = {"requestBody": {"required": True, "content": {"application/json": _JSON, "application/octet-stream": _BINARY}}}


class IndexWish(BaseModel):
    """Which models shall be listed."""

    model_config = ConfigDict(frozen=True)

    ready: bool = False


@router.get("")
async def server() -> dict[str, Any]:
    """This server, and what it can do beside the protocol."""
    return {"name": "catdog", "version": __version__, "extensions": ["binary_tensor_data", "classification"]}


@router.get("/health/live")
async def live() -> dict[str, bool]:
    """The process answers. Needs no token."""
    return {"live": True}


@router.post("/repository/index")
def index(parts: AllParts, wish: IndexWish | None = None) -> list[dict[str, str]]:
    """Every alias, with the version that answers and the one that should and cannot."""
    serving, failures = parts.predictors.serving(), parts.predictors.failures()
    found = []
    for alias, wanted in parts.registry.aliases().items():
        if alias in serving:
            found.append({"name": alias, "version": str(serving[alias]), "state": "READY", "reason": ""})
        if serving.get(alias) != wanted and not (wish and wish.ready):
            reason = failures.get(alias, {}).get("message", "it is being loaded")
            found.append({"name": alias, "version": str(wanted), "state": "UNAVAILABLE", "reason": reason})
    return found


@router.get("/models/{name}")
async def metadata(name: Name, parts: AllParts) -> dict[str, Any]:
    """A model's inputs, of which a request has one, and outputs."""
    return await _metadata(parts, name, None)


@router.get("/models/{name}/versions/{version}")
async def version_metadata(name: Name, version: Version, parts: AllParts) -> dict[str, Any]:
    """The same of one version."""
    return await _metadata(parts, name, version)


@router.get("/models/{name}/ready")
async def ready(name: Name, parts: AllParts) -> dict[str, Any]:
    """The model is loaded, or has been by this call."""
    return await _ready(parts, name, None)


@router.get("/models/{name}/versions/{version}/ready")
async def version_ready(name: Name, version: Version, parts: AllParts) -> dict[str, Any]:
    """The same of one version."""
    return await _ready(parts, name, version)


@router.post("/models/{name}/infer", openapi_extra=_BODY)
async def infer(request: Request, name: Name, parts: AllParts, header_length: HeaderLength = None) -> Response:
    """Answer encoded pictures (`image`, BYTES [N]) or pixels as the network takes them (`pixels`, UINT8 [N, S, S, 3])."""
    return await _infer(request, parts, name, None, header_length)


@router.post("/models/{name}/versions/{version}/infer", openapi_extra=_BODY)
async def version_infer(request: Request, name: Name, version: Version, parts: AllParts, header_length: HeaderLength = None) -> Response:
    """The same by one version."""
    return await _infer(request, parts, name, version, header_length)


async def _model(parts: Parts, name: str, version: int | None) -> Served:
    """The loaded model.

    Raises:
        NotFound: no such alias, or it has never meant that version.
        Unavailable: its package cannot be loaded.
    """
    if version is None:
        return await served_by(parts, name)
    if str(version) not in await run_in_threadpool(_versions, parts.registry, name):
        raise NotFound(f"Expected a version that {name} means or has meant. Received: {version}.", remedy="GET /v2/models/NAME lists them.")
    return await served_by(parts, str(version))


def _versions(registry: Registry, name: str) -> list[str]:
    """The versions of a model, the present one first."""
    return [name] if name.isdecimal() else [*dict.fromkeys(str(move.version) for move in registry.history(name))]


async def _metadata(parts: Parts, name: str, version: int | None) -> dict[str, Any]:
    served = await _model(parts, name, version)
    side, labels = served.predictor.preprocess.image_size, len(served.predictor.labels)
    return {
        "name": name, "versions": await run_in_threadpool(_versions, parts.registry, name), "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": IMAGE, "datatype": "BYTES", "shape": [-1]}, {"name": PIXELS, "datatype": "UINT8", "shape": [-1, side, side, 3]},
        ],
        "outputs": [
            {"name": output, "datatype": datatype, "shape": [-1, labels] if output == "probabilities" else [-1]}
            for output, datatype in OUTPUTS.items()
        ],
    }


async def _ready(parts: Parts, name: str, version: int | None) -> dict[str, Any]:
    served = await _model(parts, name, version)
    return {"name": name, "version": str(served.model.version), "ready": True}


async def _infer(request: Request, parts: Parts, name: str, version: int | None, header_length: int | None) -> Response:
    if encoding := request.headers.get("content-encoding"):
        raise UnsupportedType(f"Expected an uncompressed body. Received: {encoding[:50]}.", remedy="Send it without Content-Encoding.")
    parts.admission.check()
    served = await _model(parts, name, version)
    with parts.admission.room(request.state.body_bytes):
        body = bytearray()
        async with parts.admission.receiving():
            async for chunk in request.stream():
                body += chunk
        with parts.admission.room(weight(body, header_length)):
            return await _answered(request, parts, served, name, body, header_length)


async def _answered(request: Request, parts: Parts, served: Served, name: str, body: bytearray, header_length: int | None) -> Response:
    inference, binary = await run_in_threadpool(read, body, header_length)
    wanted = _wanted(inference)
    with leaving(request):
        predictions = await _predictions(parts, served, inference.input, binary)
    head = {"model_name": name, "model_version": str(served.model.version), "parameters": {"digest": served.model.digest}}
    head |= {"id": inference.id} if inference.id else {}
    is_binary = inference.parameters.get("binary_data_output") is True
    content, json_bytes = await run_in_threadpool(_written, head, wanted, predictions, by_default=is_binary)
    if json_bytes is None:
        return Response(content, media_type="application/json")
    return Response(content, media_type="application/octet-stream", headers={HEADER_LENGTH: str(json_bytes)})


def _wanted(inference: Inference) -> list[Wanted]:
    """The outputs that are asked for, or all.

    Raises:
        BadInput: an unknown one, one twice, or a classification of something else than probabilities.
    """
    wanted = inference.outputs or [Wanted(name=name) for name in OUTPUTS]
    names = [one.name for one in wanted]
    if len({*names}) < len(names):
        raise BadInput(f"Expected each output once. Received: {', '.join(names)}.")
    for one in wanted:
        count = one.parameters.get("classification")
        if one.name not in OUTPUTS:
            raise BadInput(f"Expected outputs among {', '.join(OUTPUTS)}. Received: {one.name}.")
        if count is not None and (one.name != "probabilities" or type(count) is not int or count < 1):
            raise BadInput(f"Expected a classification of probabilities into 1 or more. Received: {str(count)[:20]} of {one.name}.")
    return wanted


async def _predictions(parts: Parts, served: Served, tensor: Tensor, binary: memoryview | None) -> list[Prediction]:
    count_of(tensor, limit=parts.settings.max_batch_files)
    pictures: Iterable[Picture]
    if tensor.name == PIXELS:
        pictures = await run_in_threadpool(pixels_of, tensor, binary, image_size=served.predictor.preprocess.image_size)
    elif tensor.name == IMAGE:
        pictures = await run_in_threadpool(pictures_of, tensor, binary)
    else:
        raise BadInput(f"Expected an input called {IMAGE} or {PIXELS}. Received: {tensor.name}.")
    answers = await ask_each(parts, served, [partial(_read, picture) for picture in pictures])
    for number, answer in enumerate(answers):
        if isinstance(answer, CatdogError):
            answer.message = f"Picture {number}: {answer.message}"
            raise answer
    return [answer.prediction for answer in answers if isinstance(answer, Answer)]


async def _read(picture: Picture) -> Picture:
    return picture


def _written(
    head: dict[str, Any], wanted: list[Wanted], predictions: list[Prediction], *, by_default: bool,
) -> tuple[bytes, int | None]:
    """The answer as `write` makes it; `by_default`: outputs that do not say otherwise are binary."""
    shown = [prediction.to_dict() for prediction in predictions]
    return write(head, {one.name: _values(one, shown, is_binary=one.parameters.get("binary_data", by_default) is True) for one in wanted})


def _values(wanted: Wanted, shown: list[dict[str, Any]], *, is_binary: bool) -> Values:
    """One output for all pictures, as the predictions that are shown have it."""
    if wanted.name != "probabilities":
        column = [one[wanted.name] for one in shown]
        if OUTPUTS[wanted.name] == "FP32":
            return Values("FP32", [len(shown)], np.array(column, np.float32), is_binary)
        return Values("BYTES", [len(shown)], [text or "" for text in column], is_binary)
    table = np.array([list(one["probabilities"].values()) for one in shown], np.float32)
    count = wanted.parameters.get("classification")
    if count is None:
        return Values("FP32", table.shape, table.ravel(), is_binary)
    labels = list(shown[0]["probabilities"])
    best = np.argsort(-table, axis=1, kind="stable")[:, :count]
    texts = [f"{table[row, place]:f}:{place}:{labels[place]}" for row, places in enumerate(best) for place in places]
    return Values("BYTES", best.shape, texts, is_binary)
