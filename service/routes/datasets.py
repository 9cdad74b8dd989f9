"""/v1/datasets: upload photographs, and see what became of them."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Discriminator, Field, TypeAdapter, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse

from catdog.errors import Conflict, NotFound, UnsupportedType
from catdog.labels import checked, listed
from catdog.plans import MAX_PATTERN_LENGTH, Labelling, Rule
from service.door import media_type
from service.parts import AllParts, Datasets
from service.shelf import Entry, EntryState, Shelf
from service.uploads import receive_archive
from service.watching import Wait, until

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])

ARCHIVE_TYPES = ("application/zip", "application/octet-stream")
_REPORT_TYPES = {"html": "text/html; charset=utf-8", "json": "application/json"}
_REPORT_HEADERS = {
    # Names in it are strangers' text: should one ever escape its escaping, it still can do nothing.
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "Cache-Control": "no-cache", "Vary": "Accept",
}


def _described(field: str) -> str:
    return str(Labelling.model_fields[field].description)


class Drawn(BaseModel):
    """A data set that the project draws itself, to try everything without photographs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Literal["drawn"]
    count: int = Field(240, ge=40, le=10_000, description="Pictures, half of them cats.")
    seed: int = Field(0, ge=0, lt=2**32, description="The same seed draws the same pictures.")


class Public(BaseModel):
    """A public collection of photographs that the service downloads, once; `catdog data fetch` says what is in each."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Literal["dogs-vs-cats", "oxford-pets", "microsoft-cats-vs-dogs"]
    seed: int = Field(0, ge=0, lt=2**32, description="Decides the split where the collection has none.")


_SOURCE: TypeAdapter[Drawn | Public] = TypeAdapter(Annotated[Drawn | Public, Discriminator("source")])
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/zip": {"schema": {"type": "string", "format": "binary"}},
            "application/json": {"schema": {"oneOf": [Drawn.model_json_schema(), Public.model_json_schema()]}},
        },
    },
}


def _labelling(
    labels: Annotated[str | None, Query(description="The labels, separated by commas; by default cat,dog, and any folder.")] = None,
    rule: Annotated[Rule, Query(description=_described("rule"))] = "auto",
    pattern: Annotated[str | None, Query(max_length=MAX_PATTERN_LENGTH, description=_described("pattern"))] = None,
    unlabelled: Annotated[Literal["refuse", "skip"], Query(description=_described("unlabelled"))] = "refuse",
) -> Labelling:
    """The query of an upload."""
    words = None if labels is None else tuple(checked([label.strip() for label in labels.split(",")]))
    return Labelling(labels=words, rule=rule, pattern=pattern, unlabelled=unlabelled)


Wanted = Annotated[Labelling, Depends(_labelling)]
Seed = Annotated[int, Query(ge=0, lt=2**32, description="Decides the split where the archive has no train, val and test folders.")]


@router.post("", status_code=202, openapi_extra=_BODY)
async def create(
    request: Request, response: Response, parts: AllParts, labelling: Wanted, seed: Seed = 0,
) -> dict[str, Any]:
    """Send a zip of photographs as the raw body; or as JSON {"source": "drawn"}, or a public collection by its name.

    What its names and its directory show is answered at once; the pictures are looked at afterwards: importing -> ready | refused.
    """
    kind = media_type(request.headers)
    if kind == "application/json":
        dataset_id = await run_in_threadpool(_accept_source, parts.shelf, _source(await request.body()))
    elif kind in ARCHIVE_TYPES:
        dataset_id = await receive_archive(request, parts.shelf, settings=parts.settings, labelling=labelling, seed=seed)
    else:
        raise UnsupportedType(
            f"Expected {', '.join((*ARCHIVE_TYPES, 'application/json'))}. Received: {kind or 'no content type'}.",
            remedy="Send the zip itself as the body, with the header `Content-Type: application/zip`.",
        )
    parts.importer.wake()
    response.headers["Location"] = f"/v1/datasets/{dataset_id}"
    response.headers["Retry-After"] = "1"
    return {"id": dataset_id, "state": EntryState.IMPORTING.value, "links": _links(dataset_id)}


@router.get("")
def list_(datasets: Datasets) -> dict[str, Any]:
    """Every data set, with its state."""
    return {"items": [entry.outline() | {"links": _links(entry.id)} for entry in datasets.entries()]}


@router.get("/{dataset_id}")
async def get(dataset_id: str, request: Request, parts: AllParts, wait: Wait = 0) -> dict[str, Any]:
    """One data set: its counts by split and label when it is ready, what was wrong when it was refused."""

    def read() -> Entry:
        return parts.shelf.entry(dataset_id)

    entry = await until(lambda entry: entry.state is not EntryState.IMPORTING, read, seconds=wait, request=request, parts=parts)
    return await run_in_threadpool(entry.describe) | {"links": _links(entry.id)}


@router.get("/{dataset_id}/report", responses={200: {"content": {"application/json": {}, "text/html": {}}}})
def report(dataset_id: str, datasets: Datasets, accept: Annotated[str, Header()] = "application/json") -> FileResponse:
    """What is in a data set, what was left out and why, and what to look at: JSON, or a page for people by `Accept: text/html`."""
    entry = datasets.entry(dataset_id)
    kind = "html" if "text/html" in accept else "json"
    path = entry.folder / f"report.{kind}"
    if not path.is_file():
        raise NotFound(
            f"Expected a data set with a report. Received: {entry.id}, which is {entry.state}.",
            remedy="Wait until it is ready; what was refused by its names alone is explained in the data set itself.",
        )
    return FileResponse(path, media_type=_REPORT_TYPES[kind], headers=_REPORT_HEADERS)


@router.delete("/{dataset_id}", status_code=204)
def delete(dataset_id: str, parts: AllParts) -> None:
    """Delete a data set. 409 while it is imported, or while a job that is queued or running needs it; models keep what they need."""
    entry = parts.shelf.entry(dataset_id)
    if entry.state is EntryState.IMPORTING:
        raise Conflict(f"Expected a data set that is not importing. Received: {entry.id}, which is.", remedy="Wait for its end.")
    if users := parts.jobs.using(entry.id):
        raise Conflict(
            f"Expected a data set that no job needs. Received: {entry.id}, which {listed(users)} needs.",
            remedy="Wait for these jobs, or cancel them.",
        )
    parts.shelf.remove(entry)


def _source(body: bytes) -> Drawn | Public:
    try:
        return _SOURCE.validate_json(body)
    except ValidationError as error:
        # Where a field is wrong, pydantic's path begins with the source's name, which is no part of the body's.
        details = [{**detail, "loc": ("body", *detail["loc"][1:])} for detail in error.errors(include_url=False)]
        raise RequestValidationError(details) from error


def _accept_source(shelf: Shelf, source: Drawn | Public) -> str:
    folder = shelf.reserve()
    shelf.accept(folder, source.model_dump())
    return folder.name


def _links(dataset_id: str) -> dict[str, str]:
    return {"self": f"/v1/datasets/{dataset_id}", "report": f"/v1/datasets/{dataset_id}/report"}
