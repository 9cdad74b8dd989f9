"""/v1/jobs/{id}/metrics and /curves.svg: what was measured after each epoch so far."""

import csv
import io
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Response
from starlette.responses import JSONResponse

from catdog import epochs, plots
from catdog.progress import Progress
from service.etags import IfNoneMatch, answer
from service.parts import Limits
from service.routes.jobs import PICTURE_HEADERS, ExistingJob

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])



@router.get("/{job_id}/metrics", responses={200: {"content": {"application/json": {}, "text/csv": {}}}})
def metrics(
    job: ExistingJob, settings: Limits, accept: Annotated[str, Header()] = "application/json", if_none_match: IfNoneMatch = None,
) -> Response:
    """What was measured after each epoch so far, those of the jobs before a resumed one included: JSON, or a table by `Accept: text/csv`.

    Measures by label are in the order of the data set's labels.
    """
    items = [_measured(epoch) for epoch in epochs.read(settings.runs / job.id)]
    if "text/csv" in accept:
        return answer(Response(_table(items), media_type="text/csv", headers={"Vary": "Accept"}), if_none_match)
    return answer(JSONResponse({"items": items}, headers={"Vary": "Accept"}), if_none_match)


@router.get("/{job_id}/curves.svg", response_class=Response, responses={200: {"content": {"image/svg+xml": {}}}})
def curves(job: ExistingJob, settings: Limits, if_none_match: IfNoneMatch = None) -> Response:
    """The same as a picture of curves."""
    picture = plots.curves(epochs.read(settings.runs / job.id))
    return answer(Response(picture, media_type="image/svg+xml", headers=PICTURE_HEADERS), if_none_match)


def _measured(epoch: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in epoch.items() if name not in ("kind", "phase")}


def _table(items: list[dict[str, Any]]) -> str:
    """CSV with a column for every number that any epoch has, and a row for each epoch."""
    rows = [dict(_numbers(item)) for item in items]
    order = list(Progress.__slots__)
    names = {name for row in rows for name in row} | {"epoch"}
    columns = sorted(names, key=lambda name: (order.index(name.partition(".")[0]), int(name.partition(".")[2] or 0)))
    text = io.StringIO()
    table = csv.DictWriter(text, columns)
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def _numbers(item: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Each number by its name; of a measure by label, `val_recall.0` and so on."""
    for name, value in item.items():
        if name in Progress.__slots__:
            numbered = {f"{name}.{place}": one for place, one in enumerate(value)} if isinstance(value, list) else {name: value}
            yield from ((column, one) for column, one in numbered.items() if isinstance(one, (int, float)))
