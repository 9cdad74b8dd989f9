"""/v1/datasets: upload photographs, and see what became of them."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool

from catdog.errors import UnsupportedType
from catdog.labels import checked
from service.door import media_type
from service.parts import AllParts, Datasets
from service.shelf import Entry, EntryState, Shelf
from service.uploads import receive_archive
from service.watching import Wait, until

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])

ARCHIVE_TYPES = ("application/zip", "application/octet-stream")


class Drawn(BaseModel):
    """A data set that the project draws itself, to try everything without photographs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Literal["drawn"]
    count: int = Field(240, ge=40, le=10_000, description="Pictures, half of them cats.")
    seed: int = Field(0, ge=0, lt=2**32, description="The same seed draws the same pictures.")


_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/zip": {"schema": {"type": "string", "format": "binary"}},
            "application/json": {"schema": Drawn.model_json_schema()},
        },
    },
}

Labels = Annotated[str | None, Query(description="Labels to look for in file names, separated by commas; by default cat,dog.")]
Rule = Annotated[Literal["auto", "filename", "folder"], Query(description="Where labels stand: auto prefers folders if there are two.")]
Seed = Annotated[int, Query(ge=0, lt=2**32, description="Decides the split where the archive has no train, val and test folders.")]


@router.post("", status_code=202, openapi_extra=_BODY)
async def create(
    request: Request, response: Response, parts: AllParts, labels: Labels = None, rule: Rule = "auto", seed: Seed = 0,
) -> dict[str, Any]:
    """Send a zip of photographs as the raw body, or {"source": "drawn"} as JSON.

    What its names and its directory show is answered at once; the pictures are looked at afterwards: importing -> ready | refused.
    """
    kind = media_type(request.headers)
    if kind == "application/json":
        dataset_id = await run_in_threadpool(_accept_drawn, parts.shelf, _drawn(await request.body()))
    elif kind in ARCHIVE_TYPES:
        wish = {"labels": _labels(labels), "rule": rule, "seed": seed}
        dataset_id = await receive_archive(request, parts.shelf, settings=parts.settings, wish=wish)
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


def _drawn(body: bytes) -> Drawn:
    try:
        return Drawn.model_validate_json(body)
    except ValidationError as error:
        details = [{**detail, "loc": ("body", *detail["loc"])} for detail in error.errors(include_url=False)]
        raise RequestValidationError(details) from error


def _accept_drawn(shelf: Shelf, drawn: Drawn) -> str:
    folder = shelf.reserve()
    shelf.accept(folder, drawn.model_dump())
    return folder.name


def _labels(text: str | None) -> list[str] | None:
    return None if text is None else checked([label.strip() for label in text.split(",")])


def _links(dataset_id: str) -> dict[str, str]:
    return {"self": f"/v1/datasets/{dataset_id}"}
