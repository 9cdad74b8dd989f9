"""/v1/models: what was published, which version each alias means, and how another one comes to be meant."""

import hashlib
import json
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from catdog.errors import Conflict, CorruptPackage, NotFound, NotPromoted
from catdog.kinds import CompareConfig
from catdog.registry import Model
from catdog.settings import Settings
from service.answers import loaded
from service.parts import AllParts, Limits, Models, Parts
from service.predictors import DEFAULT_ALIAS, resolve
from service.routes.jobs import IdempotencyKey, accept
from service.shelf import EntryState

router = APIRouter(prefix="/v1/models", tags=["models"])

ALIAS = r"^[a-z][a-z0-9_-]{0,31}$"
Alias = Annotated[str, Path(pattern=ALIAS, description="Lower case letters, digits, - and _, at most 32.")]


class Because(BaseModel):
    """Why an alias moves."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reason: str = Field("set by hand", min_length=1, max_length=500, description="Why, for the alias's history.")


class AliasTarget(Because):
    """Where an alias shall point."""

    version: int = Field(ge=1, lt=2**31, description="The number of a model version.")
    force: bool = Field(False, description="Although the gate refuses it; the alias's history says so.")


@router.get("")
def list_(parts: AllParts) -> dict[str, Any]:
    """Every version, newest first, and the aliases. `quarantine` says why one could not be loaded here."""
    quarantined = parts.predictors.quarantined()
    items = [_json(model) | {"quarantine": quarantined.get(model.version)} for model in parts.registry.list()]
    return {"items": items, "aliases": parts.registry.aliases()}


@router.get("/aliases")
def aliases(models: Models) -> dict[str, Any]:
    """The version that each alias means."""
    return {"aliases": models.aliases()}


@router.put("/aliases/{alias}")
async def set_alias(alias: Alias, target: AliasTarget, parts: AllParts) -> dict[str, Any]:
    """Let an alias mean another version, if that is no worse. Predictions follow within a second.

    409 says why not: `not_promoted` with both accuracies and the p value, `not_comparable`, or `compare_first` where the two were not
    compared since the alias last moved (POST /v1/models/{version}/compare). Whatever `force` says, it must answer its golden pictures.
    """
    await _check_answers(target.version, parts)
    move = await run_in_threadpool(parts.registry.set_alias, alias, target.version, target.reason, force=target.force)
    parts.predictors.wake()
    return asdict(move)


@router.post("/aliases/{alias}/rollback")
async def roll_back(alias: Alias, parts: AllParts, because: Because | None = None) -> dict[str, Any]:
    """Let an alias mean the version before the present one again; once more goes one further back. Nothing is compared."""
    version = await run_in_threadpool(parts.registry.before, alias)
    await _check_answers(version, parts)
    move = await run_in_threadpool(parts.registry.roll_back, alias, (because or Because(reason="rolled back")).reason, to=version)
    parts.predictors.wake()
    return asdict(move)


@router.get("/aliases/{alias}/history")
def history(alias: str, models: Models) -> dict[str, Any]:
    """Every move of an alias, newest first: how it came about, and the comparison that it rests on."""
    return {"items": [asdict(move) for move in models.history(alias)]}


@router.post("/{name}/compare", status_code=202)
def compare(
    name: str, parts: AllParts,
    alias: Annotated[str, Query(pattern=ALIAS, description="The alias whose version it shall be compared with.")] = DEFAULT_ALIAS,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """A job that lets a version (by number or alias) and an alias's champion answer the pictures that neither was made with."""
    challenger, champion = parts.registry.get(resolve(parts.registry, name)), parts.registry.champion(alias)
    if champion is None or champion.version == challenger.version:
        raise Conflict(
            f"Expected an alias that points to another version. Received: {alias}, which points to {champion and champion.version}.",
            remedy=f"PUT /v1/models/aliases/{alias} needs no comparison.",
        )
    dataset = str(_package(challenger, parts.settings)["config"]["dataset"])
    config = CompareConfig(dataset=dataset, challenger=challenger.version, champion=champion.version)
    return accept(config, parts, kind="compare", key=idempotency_key, check=lambda: _check_dataset(config, parts))


@router.get("/{name}")
def get(name: str, models: Models, settings: Limits) -> dict[str, Any]:
    """One version, by its number or by an alias: its row and its package.json."""
    model = models.get(resolve(models, name))
    return _json(model) | {"package": _package(model, settings)}


async def _check_answers(version: int, parts: Parts) -> None:
    """Load a version, so that an alias never comes to mean one that does not answer on this machine as it was made to."""
    parts.predictors.wake()  # what is in quarantine gets another try
    try:
        await loaded(parts, str(version))
    except CorruptPackage as error:
        raise NotPromoted(error.message, remedy="Take another version, or train anew; what cannot answer cannot be forced.") from error


def _check_dataset(config: CompareConfig, parts: Parts) -> None:
    try:
        ready = parts.shelf.entry(config.dataset).state is EntryState.READY
    except NotFound:
        ready = False
    if not ready:
        raise Conflict(
            f"Expected the data set {config.dataset}, on which version {config.challenger} was tested. Received: it is not there.",
            remedy="Without its pictures nothing can be compared: train again, or PUT with force: true, which the history records.",
        )


def _package(model: Model, settings: Settings) -> dict[str, Any]:
    try:
        text = (settings.models / model.digest / "package.json").read_bytes()
    except OSError as error:
        raise CorruptPackage(f"Expected the package of model {model.version}. Received: {error.strerror}.") from error
    if hashlib.sha256(text).hexdigest() != model.digest:
        raise CorruptPackage(f"Expected the package.json that model {model.version} was published with. Received: another one.")
    package: dict[str, Any] = json.loads(text)
    return package


def _json(model: Model) -> dict[str, Any]:
    links = {"self": f"/v1/models/{model.version}", "job": f"/v1/jobs/{model.job_id}"}
    return asdict(model) | {"links": links}
