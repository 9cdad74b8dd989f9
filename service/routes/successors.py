"""/v1/jobs/{id}/resume and /clone: a new job that begins where a job was, or with its config."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Body
from starlette.responses import JSONResponse

from catdog import inheritance
from catdog.config import AND, TrainConfig
from catdog.errors import Conflict
from catdog.jobs import Job, JobState
from catdog.kinds import TRAININGS, Kind
from service.parts import AllParts, Parts
from service.routes.jobs import ExistingJob, IdempotencyKey, accept, check_training

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

Changes = Annotated[
    dict[str, Any] | None,
    Body(description="Fields of the config that change; null for a field's default.", examples=[{"epochs": 60}]),
]


@router.post("/{job_id}/resume", status_code=202)
def resume(job: ExistingJob, parts: AllParts, changes: Changes = None, idempotency_key: IdempotencyKey = None) -> JSONResponse:
    """A new job that goes on from the newest checkpoint of one that has ended; its epochs are counted on.

    409 while the job is queued or running, where it has left no checkpoint, and where nothing is left to train: a job that has succeeded
    needs more epochs, or more of the patience or the minutes that ended it. What the checkpoint was made with (network, data,
    batch_size, ...) cannot change.
    """
    before = _trained(job, "train")
    config = before.resumed(changes or {})

    def check() -> None:
        _check_resumable(job, parts)
        if job.state is JobState.SUCCEEDED:
            _check_something_is_left(job, before, config)
        check_training(config, parts)

    return accept(config, parts, kind="train", key=idempotency_key, resumed_from=job.id, check=check)


@router.post("/{job_id}/clone", status_code=202)
def clone(job: ExistingJob, parts: AllParts, changes: Changes = None, idempotency_key: IdempotencyKey = None) -> JSONResponse:
    """A new job with the config of another, whatever its state, from the beginning; any field may change.

    The answer's `changed` says what is different: {field: [before, now]}.
    """
    config = _trained(job, *TRAININGS).changed(changes or {})
    now = config.model_dump(mode="json")
    changed = {field: [job.config.get(field), now[field]] for field in now if now[field] != job.config.get(field)}
    kind: Kind = "train" if job.kind == "train" else "examine"
    check = partial(check_training, config, parts)
    return accept(config, parts, kind=kind, key=idempotency_key, check=check, shown={"changed": changed})


def _trained(job: Job, *kinds: str) -> TrainConfig:
    """The config of a job, if it is of one of these kinds.

    Raises:
        Conflict: the job is of another kind.
    """
    if job.kind not in kinds:
        raise Conflict(
            f"Expected a job to {' or '.join(kinds)}. Received: {job.id}, which is to {job.kind}.",
            remedy="Clone it to start it again." if job.kind == "examine" else "Ask for a new one in the way it was asked for.",
        )
    return TrainConfig.parse(job.config)


def _check_resumable(job: Job, parts: Parts) -> None:
    if not job.state.is_terminal:
        raise Conflict(
            f"Expected a job that has ended. Received: {job.id}, which is {job.state}.",
            remedy=f"Cancel it with POST /v1/jobs/{job.id}/cancel, or wait for its end with GET /v1/jobs/{job.id}?wait=30.",
        )
    if not inheritance.has_checkpoint(parts.settings.runs / job.id):
        raise Conflict(
            f"Expected a job that has left a checkpoint. Received: {job.id}, which has left none.",
            remedy=f"Begin anew with its config: POST /v1/jobs/{job.id}/clone.",
        )


def _check_something_is_left(job: Job, before: TrainConfig, now: TrainConfig) -> None:
    """Of a job that has succeeded what ended it must be put off: the checkpoint has counted epochs, patience and minutes."""
    for field in ((job.result or {}).get("stop_reason") or "epochs").split(AND):
        limit, wanted = getattr(before, field), getattr(now, field)
        if limit is not None and wanted is not None and wanted <= limit:
            raise Conflict(
                f"Expected something that is left to train. Received: {job.id}, which has come to its end.",
                remedy=f"Send more epochs than {limit}." if field == "epochs" else f"Send {field} above {limit}, or null for no limit.",
            )
