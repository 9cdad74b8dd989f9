"""POST /v1/models/{name}/verify: does this service answer a model's golden pictures as when it was packaged?"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from fastapi import APIRouter, Request
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool

from catdog.errors import CorruptPackage
from catdog.inference import Predictor
from service.answers import described, served_by
from service.door import address
from service.parts import AllParts
from service.predictors import Served

if TYPE_CHECKING:
    import httpx

router = APIRouter(prefix="/v1/models", tags=["models"])

PATIENCE_SECONDS = 30.0
"""For one picture; a service that is busy refuses sooner."""


@dataclass(frozen=True, slots=True)
class Golden:
    """The golden pictures of a package, and what must be answered to them."""

    pictures: list[Path]
    probabilities: NDArray[np.float64]
    tolerance: float
    """How far a probability may be off: softmax moves by at most half of what a logit does, as the derivatives p_i (1 - p_i) and -p_i p_j
    of one probability sum up to 2 p_i (1 - p_i) <= 1/2."""

    @classmethod
    def of(cls, predictor: Predictor) -> "Golden":
        """Read them.

        Raises:
            CorruptPackage: they are not there any more.
        """
        try:
            pictures, logits = predictor.golden()
        except (OSError, ValueError) as error:
            raise CorruptPackage(f"Expected golden pictures and their logits. Received: {type(error).__name__}.") from error
        largest = max(1.0, float(np.abs(logits).max())) / predictor.calibration.temperature
        return cls(pictures, predictor.probabilities(logits), predictor.tolerance * largest / 2)


@router.post("/{name}/verify")
async def verify(name: str, request: Request, parts: AllParts) -> dict[str, Any]:
    """Send a model's golden pictures to this service's own `/v1/predict`, over HTTP and one by one, and compare the answers.

    `passed` says whether all agree. `difference` is the largest one of a picture's probabilities; where no comparable answer came,
    `received` says what did.
    """
    import httpx  # takes a while, and most services are never asked

    served = await served_by(parts, name)
    golden = await run_in_threadpool(Golden.of, served.predictor)
    url = address(parts.settings.host, request.scope["server"][1])
    # No thread of the service waits for this: the answers come by the event loop that this call leaves free.
    async with httpx.AsyncClient(base_url=url, headers=parts.settings.authorization, timeout=PATIENCE_SECONDS, trust_env=False) as client:
        pictures = [
            await _compared(client, served, picture, expected, golden.tolerance)
            for picture, expected in zip(golden.pictures, golden.probabilities, strict=True)
        ]
    return {
        "model": described(served, name), "passed": all(one["passed"] for one in pictures), "tolerance": golden.tolerance,
        "pictures": pictures,
    }


async def _compared(
    client: "httpx.AsyncClient", served: Served, picture: Path, expected: NDArray[np.float64], tolerance: float,
) -> dict[str, Any]:
    """One picture's part of the report."""
    import httpx

    report: dict[str, Any] = {"name": picture.name, "passed": False, "difference": None}
    url, raw = f"/v1/predict?model={served.model.version}", {"Content-Type": "application/octet-stream"}
    try:
        response = await client.post(url, content=await run_in_threadpool(picture.read_bytes), headers=raw)
    except (OSError, httpx.HTTPError) as error:
        return report | {"received": f"{type(error).__name__}: {error}"[:200]}
    answer = response.json()
    if response.status_code != 200:
        return report | {"received": f"{response.status_code} {answer['code']}: {answer['detail']}"[:500]}
    if answer["model"]["digest"] != served.model.digest or [*answer["probabilities"]] != [*served.predictor.labels]:
        return report | {"received": f"an answer of model {answer['model']['version']} with the labels {[*answer['probabilities']]}"[:500]}
    difference = float(np.abs(np.array([*answer["probabilities"].values()]) - expected).max())
    return report | {"passed": difference <= tolerance, "difference": difference}
