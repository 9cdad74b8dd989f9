"""POST /v1/predict: a picture in, an answer out."""

import asyncio
import time
from base64 import b64encode
from typing import Annotated, Any, Literal

import numpy as np
import uuid6
from fastapi import APIRouter, Query, Request
from fastapi.exceptions import RequestValidationError
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from catdog.errors import TooLarge, UnsupportedType
from catdog.explanation import overlay
from catdog.inference import Prediction
from service.door import media_type
from service.parts import AllParts
from service.predictors import DEFAULT_ALIAS, Served

router = APIRouter(prefix="/v1/predict", tags=["predictions"])

_PICTURE = {"schema": {"type": "string", "format": "binary"}}
_FORM = {"schema": {"type": "object", "required": ["file"], "properties": {"file": {"type": "string", "format": "binary"}}}}
_CONTENT = {"multipart/form-data": _FORM, "image/*": _PICTURE, "application/octet-stream": _PICTURE}
_BODY = {"requestBody": {"required": True, "content": _CONTENT}}

ModelName = Annotated[str | None, Query(max_length=64, description=f"An alias or the number of a version; by default {DEFAULT_ALIAS}.")]
TopK = Annotated[int | None, Query(ge=1, le=1000, description="Only the most probable labels, so many of them.")]
Explain = Annotated[
    Literal["cam", "cam_array"] | None,
    Query(description="Where the most probable label comes from (class activation map): cam is a PNG in base64, light over the square that "
          "the network saw; cam_array has rows of numbers from 0 to 1. 422 explain_unavailable where the network has no such map."),
]


@router.post("", openapi_extra=_BODY)
async def predict(
    request: Request, parts: AllParts, model: ModelName = None, top_k: TopK = None, explain: Explain = None,
) -> dict[str, Any]:
    """Send one picture: as the field `file` of a form, or as the raw body with its content type.

    `label` is null where `decision` is abstain; `reason` is then `unfamiliar` (unlike the pictures that the model was trained on) or
    `unsure` (not sure enough of any label). `confidence` is that of the most probable label, calibrated on pictures of validation.
    """
    served = parts.predictors.find(model)
    if served is None:
        served = await run_in_threadpool(parts.predictors.get, model)
    data = await _picture(request, limit=parts.settings.max_image_bytes)
    began = time.perf_counter()
    pixels = await parts.decoders.decode(data, served.predictor.preprocess)
    decoded = time.perf_counter()
    infer = parts.predictors.infer(served, pixels[np.newaxis], explain=explain is not None)
    answer: Prediction = (await asyncio.wrap_future(infer))[0]
    inferred = time.perf_counter()
    timings = {"decode": decoded - began, "infer": inferred - decoded, "total": inferred - began}
    return {
        "prediction_id": f"pred_{uuid6.uuid7().hex}",
        "label": answer.label,
        "decision": answer.decision,
        "reason": answer.reason,
        "confidence": answer.confidence,
        "probabilities": _most_probable(answer.probabilities, top_k),
        "distance": answer.distance,
        "model": _model(served, model),
        "timings_ms": {name: round(1000 * seconds, 3) for name, seconds in timings.items()},
        "warnings": [],
    } | (await run_in_threadpool(_explanation, answer, pixels, explain) if explain is not None else {})


def _explanation(answer: Prediction, pixels: NDArray[np.uint8], form: Literal["cam", "cam_array"]) -> dict[str, Any]:
    """Where the answer comes from: pixels (S, S, 3) uint8 are what the network saw."""
    if answer.activation is None:
        return {}
    shown = b64encode(overlay(pixels, answer.activation)).decode() if form == "cam" else answer.activation.round(4).tolist()
    return {"explanation": {"label": answer.best, "png" if form == "cam" else "array": shown}}


async def _picture(request: Request, *, limit: int) -> bytes:
    """The bytes of the picture.

    Raises:
        UnsupportedType: neither a form nor a picture.
        TooLarge: more than `limit` bytes.
    """
    kind = media_type(request.headers)
    if kind == "multipart/form-data":
        async with request.form(max_files=1, max_fields=4, max_part_size=2**16) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                received = ", ".join(form)[:200] or "an empty form"
                message = "Expected a form with a file in its field `file`"
                raise RequestValidationError([{"type": "no_file", "loc": ("body", "file"), "msg": message, "input": received}])
            data = await file.read(limit + 1)
    elif kind.startswith("image/") or kind == "application/octet-stream":
        data = await request.body()
    else:
        raise UnsupportedType(
            f"Expected multipart/form-data, or a picture as image/* or application/octet-stream. Received: {kind or 'no content type'}.",
            remedy="Send it as `curl -F file=@photo.jpg`, or raw with `Content-Type: image/jpeg`.",
        )
    if len(data) > limit:
        raise TooLarge(f"Expected a picture of at most {limit} bytes. Received: more.", limit=limit)
    return data


def _most_probable(probabilities: dict[str, float], top_k: int | None) -> dict[str, float]:
    if top_k is None:
        return probabilities
    return dict(sorted(probabilities.items(), key=lambda item: -item[1])[:top_k])


def _model(served: Served, name: str | None) -> dict[str, Any]:
    alias = None if name is not None and name.isdecimal() else name or DEFAULT_ALIAS
    return {"version": served.model.version, "alias": alias, "digest": served.model.digest}
