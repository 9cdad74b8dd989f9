"""GET /health/live and /health/ready: is the process alive; can it do its work."""

import logging
import os
from dataclasses import replace
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from catdog.errors import CatdogError, Unavailable
from service import problems
from service.parts import AllParts, Parts
from service.publisher import QueueState

log = logging.getLogger("catdog.service")

router = APIRouter(prefix="/health", tags=["service"])

_NOTHING_SEEN = ({"database": "the job record or a folder does not answer"}, dict[str, str]())


@router.get("/live")
async def live() -> dict[str, str]:
    """The process answers. Needs no token."""
    return {"status": "live"}


@router.get("/ready")
async def ready(request: Request, parts: AllParts) -> JSONResponse:
    """Ready: database and folders answer, pictures can be decoded, and every alias is served by the model it points to.

    Degraded (also 200): something is missing that the service can do without for now; `degraded` names it.
    """
    broken, degraded = await parts.lookout.see(partial(_look, parts)) or _NOTHING_SEEN
    body = {
        "ready": not broken,
        "models": parts.predictors.serving(),
        "failures": parts.predictors.failures(),
        "queue": parts.publisher.state.value,
        "broken": broken,
        "degraded": degraded,
    }
    if broken:
        problem = problems.of(Unavailable(f"Expected a service that can do its work. Received: {'; '.join(broken.values())}."))
        return replace(problem, extra=body).response(request.scope)
    return JSONResponse({"status": "degraded" if degraded else "ready"} | body)


def _look(parts: Parts) -> tuple[dict[str, str], dict[str, str]]:
    """What is broken, and what is only missing; each by the name of the part."""
    broken: dict[str, str] = {}
    degraded: dict[str, str] = {}
    settings = parts.settings
    try:
        aliases = parts.registry.aliases()
    except Exception as error:  # noqa: BLE001 - whatever the database raises, here it is an answer
        log.warning("event=database_broken error=%r", error)
        broken["database"] = error.message if isinstance(error, CatdogError) else "the job record cannot be read"
        aliases = {}
    broken |= {
        name: f"the folder of the {name} cannot be written"
        for name, folder in (("datasets", settings.datasets), ("runs", settings.runs), ("models", settings.models))
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK)
    }
    if not parts.decoders.is_able:
        broken["decoders"] = "no process that decodes pictures can be started"
    serving, failures = parts.predictors.serving(), parts.predictors.failures()
    for alias, version in aliases.items():
        if alias not in serving:
            broken[f"alias {alias}"] = failures.get(alias, {}).get("message", f"model {version} is being loaded")
        elif serving[alias] != version:
            reason = failures.get(alias, {}).get("message", "that one is being loaded")
            degraded[f"alias {alias}"] = f"model {serving[alias]} still answers instead of {version}: {reason}"
    if not aliases and "database" not in broken:
        degraded["models"] = "no model has been published yet"
    if parts.publisher.state in (QueueState.DOWN, QueueState.UNSET):
        degraded["queue"] = "jobs are accepted and wait: " + (
            "CATDOG_REDIS_URL is not set" if parts.publisher.state is QueueState.UNSET else "Redis does not answer"
        )
    unclaimed = parts.reconciler.unclaimed()
    if unclaimed:
        degraded["worker"] = f"{unclaimed} jobs wait and no worker claims them"
    return broken, degraded
