"""POST /v1/predict: a picture in, an answer out."""

import time
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import UploadFile
from starlette.responses import JSONResponse

from catdog.errors import TooLarge, UnsupportedType
from service.answers import ask, described, served_by
from service.door import media_type
from service.metrics import RECEIVE
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


@router.post("", openapi_extra=_BODY)
async def predict(request: Request, parts: AllParts, model: ModelName = None, top_k: TopK = None) -> JSONResponse:
    """Send one picture: as the field `file` of a form, or as the raw body with its content type."""
    parts.admission.check()
    served = await served_by(parts, model)
    began = time.perf_counter()
    data = await _picture(request, limit=parts.settings.max_image_bytes)
    RECEIVE.observe(time.perf_counter() - began)
    async with leaving(request):
        answer = await ask(parts, served, data)
    return JSONResponse(answer.to_dict(top_k) | {"model": described(served, model)})


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

