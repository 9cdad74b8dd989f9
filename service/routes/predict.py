"""POST /v1/predict: a picture in, an answer out."""

from base64 import b64encode
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from catdog.errors import UnsupportedType
from catdog.explanation import overlay
from service.answers import Answer, ask, described, served_by
from service.door import media_type
from service.forms import file_in
from service.parts import AllParts
from service.predictors import DEFAULT_ALIAS
from service.watching import leaving

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
) -> JSONResponse:
    """Send one picture: as the field `file` of a form, or as the raw body with its content type.

    `label` is null where `decision` is abstain; `reason` is then `unfamiliar` (unlike the pictures that the model was trained on) or
    `unsure` (not sure enough of any label). `confidence` is that of the most probable label, calibrated on pictures of validation.
    """
    parts.admission.check()
    served = await served_by(parts, model)
    with parts.admission.room(request.state.body_bytes):
        async with parts.admission.receiving():
            data = await _picture(request)
        with leaving(request):
            answer = await ask(parts, served, data, explain=explain is not None)
    said = answer.to_dict(top_k) | {"model": described(served, model)}
    if explain is not None:
        said |= await run_in_threadpool(_explanation, answer, explain)
    return JSONResponse(said)


def _explanation(answer: Answer, form: Literal["cam", "cam_array"]) -> dict[str, Any]:
    """Where the answer comes from, over what the network saw."""
    if (activation := answer.prediction.activation) is None:
        return {}
    shown = b64encode(overlay(answer.pixels, activation)).decode() if form == "cam" else activation.round(4).tolist()
    return {"explanation": {"label": answer.prediction.best, "png" if form == "cam" else "array": shown}}


async def _picture(request: Request) -> bytes:
    """The bytes of the picture.

    Raises:
        UnsupportedType: neither a form nor a picture.
        HTTPException, RequestValidationError: as file_in.
    """
    kind = media_type(request.headers)
    if kind == "multipart/form-data":
        return await file_in(request, name="file")
    if kind.startswith("image/") or kind == "application/octet-stream":
        return await request.body()
    raise UnsupportedType(
        f"Expected multipart/form-data, or a picture as image/* or application/octet-stream. Received: {kind or 'no content type'}.",
        remedy="Send it as `curl -F file=@photo.jpg`, or raw with `Content-Type: image/jpeg`.",
    )
