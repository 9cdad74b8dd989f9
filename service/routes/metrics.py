"""GET /metrics: what this process counts and times, for Prometheus."""

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import Response

router = APIRouter(tags=["service"])

_TEXT = {"content": {"text/plain": {}}, "description": "Prometheus' text format."}


@router.get("/metrics", response_class=Response, responses={200: _TEXT})
async def metrics() -> Response:
    """Stages of predictions, places taken, refusals, requests by route and status, and the process itself."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
