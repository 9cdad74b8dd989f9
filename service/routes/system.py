"""GET /v1/system: this machine, its limits, and what is odd about it."""

import platform
import sys
from pathlib import Path
from typing import Any

from fastapi import APIRouter

from catdog import __version__, device
from catdog.images import FORMATS, MAX_PIXELS, MAX_SIDE, MIN_SIDE
from catdog.machine import versions
from catdog.settings import Settings
from service.door import MAX_TENSOR_JSON_BYTES
from service.parts import AllParts
from service.publisher import QueueState

router = APIRouter(prefix="/v1/system", tags=["service"])


@router.get("")
def system(parts: AllParts) -> dict[str, Any]:
    """What this machine has, takes and lacks."""
    settings = parts.settings
    return {
        "versions": {"catdog": __version__, "python": platform.python_version()} | versions(
            "fastapi", "uvicorn", "celery", "sqlalchemy", "onnxruntime", "onnxruntime-gpu", "pillow", "numpy",
        ),
        "devices": {"cores": device.cores(), "gpus": _gpus(), "inference": _providers(settings), "runs": settings.device},
        "beside_training": {"run_niceness": settings.run_niceness, "inference_threads": device.lanes(settings.device)[0]},
        "formats": {"pictures": list(FORMATS), "archives": ["zip"]},
        "limits": {
            "predictions": settings.max_predictions,
            "predictions_bytes": settings.max_predictions_bytes,
            "predict_seconds": settings.predict_seconds,
            "image_bytes": settings.max_image_bytes,
            "image_pixels": MAX_PIXELS,
            "image_side": [MIN_SIDE, MAX_SIDE],
            "batch_files": settings.max_batch_files,
            "batch_bytes": settings.max_batch_bytes,
            "json_bytes": settings.max_json_bytes,
            "tensor_json_bytes": MAX_TENSOR_JSON_BYTES,
            "archive_bytes": settings.max_archive_bytes,
            "archive_unpacked_bytes": settings.max_unpacked_bytes,
            "archive_files": settings.max_archive_files,
            "run_seconds": settings.time_limit_seconds,
        },
        "counts": {
            "datasets": len(parts.shelf.entries()),
            "jobs_waiting": parts.jobs.waiting(),
            "jobs_running": len(parts.jobs.leases()),
            "models": len(parts.registry.list()),
        },
        "queue": parts.publisher.state.value,
        "warnings": _warnings(settings, parts.publisher.state),
    }


def _providers(settings: Settings) -> list[str]:
    """What ONNX Runtime computes predictions on, best first."""
    return [provider if isinstance(provider, str) else provider[0] for provider in device.providers(settings.device)]


def _gpus() -> list[str]:
    """The NVIDIA devices that the kernel's driver knows; a run says in its job record which one it took."""
    found = []
    for information in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        lines = (line.partition(":") for line in information.read_text().splitlines())
        found += [value.strip() for name, _, value in lines if name == "Model"]
    return found


def _warnings(settings: Settings, queue: QueueState) -> list[str]:
    found = [f"{name} is no setting of catdog; `catdog config` lists those there are." for name in Settings.unknown_variables()]
    if queue is QueueState.UNSET:
        found.append("CATDOG_REDIS_URL is not set: jobs are accepted and wait, and no worker is told of them.")
    elif queue is QueueState.DOWN:
        found.append("Redis does not answer: jobs are accepted and wait until it does.")
    found += device.shortfalls(settings)
    if sys.flags.optimize:
        found.append("Python runs with -O: some explanations are missing.")
    return found
