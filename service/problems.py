"""Problem, of, STATUS, SCHEMA, meanings: the one table from what went wrong to the answer that says so (RFC 9457).

Every route answers in this one shape: catdog's errors, wrong requests, unknown routes and our own bugs alike. What is a bug of ours says
nothing but its request id; the rest is in the log.
"""

import errno
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import compile_path
from starlette.types import Scope

from catdog import errors
from catdog.errors import FAILURES, BadConfig, BadDataset, CatdogError, TooLarge

STATUS: dict[type[CatdogError], int] = {
    errors.BadInput: 422,
    errors.TooLarge: 413,
    errors.UnsupportedType: 415,
    errors.Forbidden: 401,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.NoModel: 503,
    errors.Unavailable: 503,
    errors.DatasetChanged: 409,
    errors.CorruptPackage: 503,
    CatdogError: 500,
}
"""A class that is not named here answers as the nearest of its parents."""

_OF_HTTP = {
    400: ("bad_request", "Correct the request and send it again."),
    401: ("unauthorized", errors.Forbidden.default_remedy),
    404: ("not_found", "GET / lists what there is; /docs describes it."),
    405: ("method_not_allowed", "Use one of the methods that the header Allow names."),
    413: ("too_large", TooLarge.default_remedy),
}
_MEANINGS = {
    "bad_request": "The request is not HTTP that this service understands.",
    "method_not_allowed": "The address exists, but not with this method.",
    "disk_full": "There is no space left where catdog keeps its data.",
}
_RETRY_SECONDS = 5
_MESSAGE_LENGTH = 2000

SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "instance", "code", "request_id", "remedy", "errors"],
    "properties": {
        "type": {"type": "string", "examples": ["/problems/not_found"]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What was expected, and what came."},
        "instance": {"type": "string", "description": "The path that was asked for."},
        "code": {"type": "string"},
        "request_id": {"type": "string", "description": "Also in X-Request-ID and in the service's log."},
        "remedy": {"type": "string", "description": "What to do."},
        "error": {"type": "string", "description": "Under /v2: the detail, where the Open Inference Protocol has it."},
        "errors": {
            "type": "array",
            "items": {"type": "object", "properties": {"pointer": {"type": "string"}, "detail": {"type": "string"}}},
        },
    },
}
"""A problem in the words of OpenAPI."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One answer that says what went wrong."""

    status: int
    code: str
    detail: str
    remedy: str
    errors: list[dict[str, str]] = field(default_factory=list)
    """One {pointer, detail} for each wrong part of the request."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further members, such as the limit that was exceeded."""
    headers: dict[str, str] = field(default_factory=dict)

    def response(self, scope: Scope) -> JSONResponse:
        """This problem as the answer to the request of `scope`."""
        headers = self.headers | ({"Retry-After": str(_RETRY_SECONDS)} if self.status == HTTPStatus.SERVICE_UNAVAILABLE else {})
        return JSONResponse(self.body(scope), self.status, headers, media_type="application/problem+json")

    def body(self, scope: Scope) -> dict[str, Any]:
        """This problem as it is sent; also for one of several things that a request asks for."""
        body = {
            "type": f"/problems/{self.code}",
            "title": title(self.code),
            "status": self.status,
            "detail": self.detail[:_MESSAGE_LENGTH],
            "instance": scope["path"][:_MESSAGE_LENGTH],
            "code": self.code,
            "request_id": scope.get("state", {}).get("request_id", ""),
            "remedy": self.remedy,
            "errors": self.errors,
        }
        if f"{scope['path']}/".startswith("/v2/"):
            body["error"] = body["detail"]
        return body | self.extra


async def answer(request: Request, error: Exception) -> JSONResponse:
    """The exception handler of the application."""
    problem = of(error)
    if problem.status == HTTPStatus.METHOD_NOT_ALLOWED:
        # Starlette names only the methods of the first route of this path.
        allowed = ", ".join(_methods(request.app, request.url.path)) or problem.headers.get("Allow", "")
        detail = f"Expected one of the methods {allowed}. Received: {request.method}."
        problem = replace(problem, detail=detail, headers={"Allow": allowed})
    elif isinstance(error, HTTPException) and problem.status == HTTPStatus.NOT_FOUND:
        problem = replace(problem, detail=f"Expected an address of this service. Received: {request.url.path}.")
    return problem.response(request.scope)


def _methods(app: FastAPI, path: str) -> list[str]:
    matching = (methods for template, methods in app.openapi()["paths"].items() if compile_path(template)[0].match(path))
    return sorted({method.upper() for methods in matching for method in methods})


HANDLERS: dict[int | type[Exception], Any] = {CatdogError: answer, RequestValidationError: answer, HTTPException: answer}


def of(error: Exception) -> Problem:
    """The problem that an error is answered with."""
    if isinstance(error, CatdogError):
        return _of_catdog(error)
    if isinstance(error, RequestValidationError):
        wrong = [_wrong_part(part) for part in error.errors()]
        detail = "; ".join(f"{part['pointer'] or 'the body'}: {part['detail']}" for part in wrong)
        return Problem(422, "bad_input", detail, errors.BadInput.default_remedy, errors=wrong)
    if isinstance(error, HTTPException):
        code, remedy = _OF_HTTP.get(error.status_code, _OF_HTTP[400])
        limit = getattr(error, "limit", None)
        extra = {} if limit is None else {"limit": limit}
        return Problem(error.status_code, code, error.detail, remedy, extra=extra, headers=dict(error.headers or {}))
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Problem(507, "disk_full", "Expected free space where the data is kept. Received: a full disk.", FAILURES["disk_full"])
    detail = "Expected this request to work. Received: an error inside the service, which is in its log under the request id."
    return Problem(500, "internal", detail, "Report it with the request id: this is a bug of catdog.")


def _of_catdog(error: CatdogError) -> Problem:
    status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        # What a failed run or bad settings have to say may hold folders of this machine.
        return of(RuntimeError())
    wrong: list[dict[str, str]] = []
    extra: dict[str, Any] = {}
    headers: dict[str, str] = {}
    if isinstance(error, BadConfig):
        field = "" if error.field == "config" else "/" + error.field.replace(".", "/")
        wrong = [{"pointer": field, "detail": error.message}]
    elif isinstance(error, BadDataset):
        wrong = [{"pointer": "", "detail": offender} for offender in error.offenders]
    elif isinstance(error, errors.NotPromoted):
        extra = {"comparison": error.comparison}
    elif isinstance(error, TooLarge):
        extra = {"limit": error.limit}
    elif isinstance(error, errors.Forbidden):
        headers = {"WWW-Authenticate": "Bearer"}
    return Problem(status, error.code, error.message, error.remedy, errors=wrong, extra=extra, headers=headers)


def _wrong_part(part: Mapping[str, Any]) -> dict[str, str]:
    place, *rest = part["loc"]
    if part["type"] == "json_invalid":
        return {"pointer": "", "detail": f"Expected JSON. Received: {part['ctx']['error']}."}
    steps = rest if place == "body" else [place, *rest]
    pointer = "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in steps)
    received = "nothing" if part["type"] == "missing" else repr(part.get("input"))[:200]
    return {"pointer": pointer, "detail": f"{part['msg']}. Received: {received}."}


def title(code: str) -> str:
    """A code in words."""
    return code.replace("_", " ").capitalize()


def meanings() -> dict[str, dict[str, Any]]:
    """Every code that a problem, or the error of a job, may have: what it means, its HTTP status (None: only in jobs), what to do."""
    table: dict[str, dict[str, Any]] = {code: _meaning(code, None, "The failure of a job.", remedy) for code, remedy in FAILURES.items()}
    for kind in _children(CatdogError):
        status = next(STATUS[parent] for parent in kind.__mro__ if parent in STATUS)
        if "code" in vars(kind) and not issubclass(kind, errors.BadSettings):
            table[kind.code] = _meaning(kind.code, status, re.sub(r"\s+", " ", kind.__doc__ or ""), kind.default_remedy)
    for status, (code, remedy) in _OF_HTTP.items():
        table.setdefault(code, _meaning(code, status, _MEANINGS.get(code, ""), remedy))
    table["disk_full"] = _meaning("disk_full", 507, _MEANINGS["disk_full"], FAILURES["disk_full"])
    table["internal"] = _meaning("internal", 500, "A bug of catdog.", FAILURES["internal"])
    return table


def _meaning(code: str, status: int | None, text: str, remedy: str) -> dict[str, Any]:
    return {"type": f"/problems/{code}", "code": code, "title": title(code), "status": status, "meaning": text, "remedy": remedy}


def _children(kind: type[CatdogError]) -> Iterator[type[CatdogError]]:
    for child in kind.__subclasses__():
        yield child
        yield from _children(child)
