"""/v1/jobs/{id}/doctor: what the doctor found before and while a job trained, and what its curves say."""

from contextlib import suppress
from dataclasses import asdict

from fastapi import APIRouter, Response
from starlette.responses import JSONResponse

from catdog import epochs
from catdog.config import TrainConfig
from catdog.doctor.curve import diagnose
from catdog.doctor.findings import Report
from catdog.errors import BadConfig, NotFound
from catdog.jobs import Job
from catdog.settings import Settings
from service.etags import IfNoneMatch, answer
from service.parts import Limits
from service.routes.jobs import ExistingJob

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


@router.get("/{job_id}/doctor")
def doctor(job: ExistingJob, settings: Limits, if_none_match: IfNoneMatch = None) -> Response:
    """The doctor's report: findings, each with its culprit, evidence and remedy; and `curve`, what is to be said of the epochs so far."""
    report = Report.read(settings.runs / job.id)
    if report is None:
        raise NotFound(
            f"Expected the doctor's report of {job.id}. Received: none yet.",
            remedy="It is there when the job has left the phase examining.",
        )
    return answer(JSONResponse(report.to_dict() | {"curve": _curve(job, settings)}), if_none_match)


def _curve(job: Job, settings: Settings) -> list[dict[str, object]]:
    config = None
    with suppress(BadConfig):  # of an older version
        config = TrainConfig.parse(job.config)
    found = diagnose(
        epochs.read(settings.runs / job.id), config, labels=(job.result or {}).get("labels", ()), has_ended=job.state.is_terminal,
    )
    return [asdict(finding) for finding in found]
