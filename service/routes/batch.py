"""POST /v1/predict/batch: many pictures in one form, an answer or a problem for each."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import Scope

from catdog.errors import CatdogError, TooLarge, UnsupportedType
from catdog.settings import Settings
from service import problems
from service.admission import Admission
from service.answers import Answer, ask_each, described, served_by
from service.door import media_type
from service.parts import AllParts
from service.routes.predict import ModelName, TopK
from service.watching import leaving

router = APIRouter(prefix="/v1/predict", tags=["predictions"])

MAX_NAME_LENGTH = 255
"""Of a file's name in the answer."""
_DEFAULTS = {name: field.default for name, field in Settings.model_fields.items()}
_FILES = {
    "type": "array", "items": {"type": "string", "format": "binary"}, "maxItems": _DEFAULTS["max_batch_files"],
    "description": f"Pictures of at most {_DEFAULTS['max_image_bytes']} bytes each and {_DEFAULTS['max_batch_bytes']} together, "
                   "unless /v1/system says other limits.",
}
_FORM = {"schema": {"type": "object", "required": ["files"], "properties": {"files": _FILES}}}
_BODY = {"requestBody": {"required": True, "content": {"multipart/form-data": _FORM}}}


@router.post("/batch", openapi_extra=_BODY)
async def predict_batch(request: Request, parts: AllParts, model: ModelName = None, top_k: TopK = None) -> JSONResponse:
    """Send many pictures, each as a field `files` of one form. Answered in their order by one version; one bad file costs only itself."""
    parts.admission.check()
    served = await served_by(parts, model)
    with parts.admission.room(request.state.body_bytes):
        async with _form(request, parts.admission, limit=parts.settings.max_batch_files) as form:
            files = _files(form)
            # A byte more than a picture may have is enough to see that it is too large.
            pictures = [partial(file.read, parts.settings.max_image_bytes + 1) for file in files]
            with leaving(request):
                answers = await ask_each(parts, served, pictures)
    return await run_in_threadpool(_said, files, answers, described(served, model), scope=request.scope, top_k=top_k)


def _said(
    files: list[UploadFile], answers: list[Answer | CatdogError], model: dict[str, Any], *, scope: Scope, top_k: int | None,
) -> JSONResponse:
    items = [
        {"name": (file.filename or "")[:MAX_NAME_LENGTH]} | (
            {"problem": problems.of(answer).body(scope)} if isinstance(answer, CatdogError) else answer.to_dict(top_k)
        )
        for file, answer in zip(files, answers, strict=True)
    ]
    refused = sum("problem" in item for item in items)
    return JSONResponse({"items": items, "answered": len(items) - refused, "refused": refused, "model": model})


@asynccontextmanager
async def _form(request: Request, admission: Admission, *, limit: int) -> AsyncIterator[FormData]:
    """The form, whose larger files lie on disk until it is closed.

    Raises:
        UnsupportedType: not a form.
        TooLarge: more than `limit` files.
        Unavailable: as Admission.receiving.
    """
    kind = media_type(request.headers)
    if kind != "multipart/form-data":
        raise UnsupportedType(
            f"Expected multipart/form-data. Received: {kind or 'no content type'}.",
            remedy="Send them as `curl -F files=@a.jpg -F files=@b.jpg`.",
        )
    try:
        async with admission.receiving():
            form = await request.form(max_files=limit, max_fields=0)
    except HTTPException as error:
        if error.detail.startswith("Too many files"):
            raise TooLarge(f"Expected at most {limit} files in one request. Received: more.", limit=limit) from error
        raise
    try:
        yield form
    finally:
        await form.close()


def _files(form: FormData) -> list[UploadFile]:
    wrong = sorted({name for name, _ in form.multi_items()} - {"files"})
    if wrong or not form:
        received = ", ".join(wrong)[:200] or "an empty form"
        message = "Expected a form whose fields are files, each called `files`"
        raise RequestValidationError([{"type": "no_files", "loc": ("body", "files"), "msg": message, "input": received}])
    return [file for _, file in form.multi_items() if isinstance(file, UploadFile)]
