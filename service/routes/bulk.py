"""POST /v1/predict/dataset: every picture of a data set, answered by a job."""

from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse

from catdog.config import DATASET_ID
from catdog.errors import BadConfig
from catdog.kinds import PredictConfig
from service.parts import AllParts, Parts
from service.predictors import DEFAULT_ALIAS, resolve
from service.routes.jobs import IdempotencyKey, accept, ready_dataset

router = APIRouter(prefix="/v1/predict", tags=["predictions"])


class BulkRequest(BaseModel):
    """What shall be answered, and by which model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str = Field(pattern=DATASET_ID, description="The id of a data set.")
    split: Literal["train", "val", "test"] | None = Field(None, description="Only the pictures of this split; by default all.")
    model: Annotated[str, Field(max_length=64)] | int = Field(
        DEFAULT_ALIAS, description="An alias or the number of a version. The job stays with what it means now.",
    )


@router.post("/dataset", status_code=202)
def predict_dataset(wish: BulkRequest, parts: AllParts, idempotency_key: IdempotencyKey = None) -> JSONResponse:
    """Answer every picture of a data set: a job whose artifacts are `predictions.ndjson`, a row a picture, and `predictions.csv`."""
    model = parts.registry.get(resolve(parts.registry, str(wish.model)))
    config = PredictConfig(dataset=wish.dataset, split=wish.split, digest=model.digest, model=model.version)
    return accept(config, parts, kind="predict", key=idempotency_key, check=partial(_check, config, parts))


def _check(config: PredictConfig, parts: Parts) -> None:
    counts = ready_dataset(config.dataset, parts).describe()["counts"]
    if config.split is not None and not sum(counts[config.split].values()):
        raise BadConfig(f"split: expected one with pictures. Received: {config.split}, which has none.", field="split")
