"""GET /: what there is."""

from typing import Any

from fastapi import APIRouter

from catdog import __version__

router = APIRouter(tags=["service"])


@router.get("/")
def discover() -> dict[str, Any]:
    """Where everything is."""
    return {
        "name": "catdog",
        "version": __version__,
        "urls": {
            "docs": "/docs",
            "openapi": "/openapi.json",
            "live": "/health/live",
            "ready": "/health/ready",
            "metrics": "/metrics",
            "system": "/v1/system",
            "datasets": "/v1/datasets",
            "jobs": "/v1/jobs",
            "models": "/v1/models",
            "aliases": "/v1/models/aliases",
            "predict": "/v1/predict",
            "open_inference_protocol": "/v2",
            "problems": "/problems",
        },
    }
