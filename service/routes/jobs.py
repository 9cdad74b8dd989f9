"""/v1/jobs: start a training, watch it, stop it. What comes of a job is in successors.py, what it has learnt so far in epochs.py."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi import Path as PathParam
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import WrapValidator
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse

from catdog import balance, catalogue, weights
from catdog.config import RunConfig, TrainConfig
from catdog.errors import BadConfig, DatasetChanged, NotFound, WeightsUnavailable
from catdog.jobs import Event, Job, JobState
from catdog.kinds import TRAININGS, Kind
from service.etags import IfNoneMatch, answer
from service.parts import AllParts, Jobs, Limits, Parts
from service.shelf import Entry, EntryState
from service.watching import READ_SECONDS, Wait, until

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

MAX_TAIL_BYTES = 2**20
PICTURE_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
"""A picture that is opened by itself runs nothing."""
ARTIFACT = r"^[a-z0-9_]{1,64}\.(png|svg|json|ndjson|csv)$"
"""A file's name, never a path."""

# The schema of the documentation is TrainConfig's; the reading of it is the library's own, whose errors name the field and the remedy.
Config = Annotated[TrainConfig, WrapValidator(lambda fields, _: TrainConfig.parse(fields))]


def existing(job_id: str, jobs: Jobs) -> Job:
    """The job of the path."""
    return jobs.get(job_id)


ExistingJob = Annotated[Job, Depends(existing)]
IdempotencyKey = Annotated[str | None, Header(description="Sent again with the same body it gives the same job.")]


@router.post("", status_code=202)
def create(
    config: Config, parts: AllParts,
    dry_run: Annotated[bool, Query(description="Examine only: what a training would see, without training.")] = False,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Start a training, or with `dry_run` its examination. Answered when the job is on disk: from then on nothing loses it."""
    kind: Kind = "examine" if dry_run else "train"
    return accept(config, parts, kind=kind, key=idempotency_key, check=partial(check_training, config, parts))


@router.get("")
def list_(
    jobs: Jobs,
    state: Annotated[JobState | None, Query(description="Only jobs in this state.")] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="Jobs on a page.")] = 50,
    after: Annotated[str | None, Query(max_length=64, description="`next` of the page before.")] = None,
) -> dict[str, Any]:
    """Jobs, newest first."""
    page = jobs.list(state=state, limit=limit, after=after)
    return {"items": [_json(job) for job in page], "next": page[-1].id if len(page) == limit else None}


@router.get("/{job_id}")
async def get(
    request: Request, job: ExistingJob, parts: AllParts, wait: Wait = 0, if_none_match: IfNoneMatch = None,
) -> Response:
    """One job. With `wait`, answers as soon as its state, phase or epoch changes."""
    before = _mark(job)
    job = await until(
        lambda job: job.state.is_terminal or _mark(job) != before, partial(parts.jobs.get, job.id),
        seconds=wait, request=request, parts=parts,
    )
    return answer(JSONResponse(_json(job)), if_none_match)


@router.post("/{job_id}/cancel", status_code=202)
def cancel(job_id: str, jobs: Jobs) -> JSONResponse:
    """Cancel a job: a queued one at once (200), a running one soon (202). 409 when it has succeeded or failed."""
    job = jobs.request_cancel(job_id)
    return JSONResponse(_json(job), 200 if job.state is JobState.CANCELLED else 202)


@router.get("/{job_id}/events", response_class=EventSourceResponse)
async def events(
    job: ExistingJob, parts: AllParts,
    last_event_id: Annotated[int, Header(ge=0, lt=2**63, description="Only events after this one.")] = 0,
) -> AsyncIterator[ServerSentEvent]:
    """What happens to a job, as server-sent events, from its beginning to its end.

    Events with an id are for ever and can be asked for again; `progress` has none, and is only the newest word.
    """
    after = last_event_id
    shown: dict[str, Any] | None = None
    while not parts.closing.is_set():
        # The job is read first: if it has ended, the events read after that are all there will be.
        job = await run_in_threadpool(parts.jobs.get, job.id)
        page = await run_in_threadpool(_events, parts, job.id, after)
        for event in page:
            yield ServerSentEvent(id=str(event.seq), event=event.kind, data=event.data | {"fence": event.fence, "created": event.created})
            after = event.seq
        if page:
            continue
        if job.state.is_terminal:
            return
        if job.progress != shown:
            shown = job.progress
            yield ServerSentEvent(event="progress", data=shown)
        await asyncio.sleep(READ_SECONDS)


@router.get("/{job_id}/logs", response_class=PlainTextResponse)
def logs(
    job: ExistingJob, settings: Limits,
    tail_bytes: Annotated[int, Query(ge=1, le=MAX_TAIL_BYTES, description="Only the end of the log.")] = MAX_TAIL_BYTES,
) -> PlainTextResponse:
    """What the run has printed; empty before it has begun."""
    return PlainTextResponse(_tail(settings.runs / job.id / "log.txt", tail_bytes))


@router.get("/{job_id}/artifacts/{name}", response_class=FileResponse)
def artifact(
    job: ExistingJob, settings: Limits,
    name: Annotated[str, PathParam(pattern=ARTIFACT, description="One of the job's `links.artifacts`.")],
) -> FileResponse:
    """A picture or table that the run has left, such as contact_sheet.png."""
    path = settings.runs / job.id / "artifacts" / name
    if not path.is_file():
        raise NotFound(f"Expected an artifact of {job.id}. Received: {name}.", remedy="The job's links.artifacts name what there is.")
    return FileResponse(path, headers={"Cache-Control": "no-cache"} | PICTURE_HEADERS)


def accept(
    config: RunConfig, parts: Parts, *, kind: Kind, key: str | None, check: Callable[[], None],
    resumed_from: str | None = None, shown: dict[str, Any] | None = None,
) -> JSONResponse:
    """Make the job, unless the same request with this key has made it before, and answer with it and what else is `shown`.

    `check` refuses what a new job must not be.
    """
    wanted = config.model_dump(mode="json")
    if parts.jobs.replayed(wanted, kind=kind, resumed_from=resumed_from, idempotency_key=key) is None:
        check()  # what is replayed was checked when it was new
    job, is_new = parts.jobs.create(wanted, kind=kind, resumed_from=resumed_from, idempotency_key=key)
    if is_new:
        parts.reconciler.wake(job.id)
    headers = {"Location": f"/v1/jobs/{job.id}", "Retry-After": "2"}
    return JSONResponse(_json(job) | (shown or {}), 202 if is_new else 200, headers)


def ready_dataset(dataset_id: str, parts: Parts) -> Entry:
    """The data set of a job to be.

    Raises:
        BadConfig: there is none with this id, or it is not ready.
    """
    try:
        entry = parts.shelf.entry(dataset_id)
    except NotFound as error:
        raise BadConfig(f"dataset: expected a data set of this service. Received: {dataset_id}.", field="dataset",
                        remedy="Upload one with POST /v1/datasets; GET /v1/datasets lists them.") from error
    if entry.state is not EntryState.READY:
        raise BadConfig(f"dataset: expected one that is ready. Received: {entry.id}, which is {entry.state}.", field="dataset",
                        remedy=f"Wait with GET /v1/datasets/{entry.id}?wait=30, or upload another one.")
    return entry


def check_training(config: TrainConfig, parts: Parts) -> None:
    """Refuse what can be known to fail before a worker sees it."""
    try:
        balance.check(config, ready_dataset(config.dataset, parts).describe()["counts"])
    except DatasetChanged as error:
        raise BadConfig(f"dataset: {error.message}", field="dataset", remedy=error.remedy) from error
    # Weights that a package carries are installed with the worker, which may be elsewhere: its run says when they are missing.
    fetched = config.weights != "none" and catalogue.find(config.model).package is None
    if fetched and not weights.on_this_machine(config.model, parts.settings.weights):
        raise WeightsUnavailable(
            f"weights: expected the pretrained weights of {config.model} on this machine. Received: none.", field="weights",
            remedy=f"Fetch them with `catdog models fetch {config.model}`, or set weights to none.",
        )


def _mark(job: Job) -> tuple[Any, ...]:
    return job.state, job.phase, job.cancel_requested, (job.progress or {}).get("epoch")


def _events(parts: Parts, job_id: str, after: int) -> list[Event]:
    return parts.jobs.events(job_id, after=after)


def _tail(path: Path, size: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - size))
            return file.read(size).decode(errors="replace")
    except FileNotFoundError:
        return ""


def _json(job: Job) -> dict[str, Any]:
    here = f"/v1/jobs/{job.id}"
    links: dict[str, Any] = {"self": here} | {name: f"{here}/{name}" for name in ("events", "logs", "cancel")}
    if job.kind in TRAININGS:
        links |= {"doctor": f"{here}/doctor", "clone": f"{here}/clone"}
    if job.kind == "train":
        links |= {"metrics": f"{here}/metrics", "curves": f"{here}/curves.svg", "resume": f"{here}/resume"}
    if job.resumed_from is not None:
        links["resumed_from"] = f"/v1/jobs/{job.resumed_from}"
    if job.result is not None and "artifacts" in job.result:
        links["artifacts"] = [f"{here}/artifacts/{name}" for name in job.result["artifacts"]]
    if job.model is not None:
        links["model"] = f"/v1/models/{job.model}"
    return asdict(job) | {"links": links}


