"""/v1/models: what was published, and which version each alias means."""

import hashlib
import json
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field

from catdog.errors import CorruptPackage
from catdog.registry import Model
from catdog.settings import Settings
from service.parts import AllParts, Limits, Models
from service.predictors import resolve

router = APIRouter(prefix="/v1/models", tags=["models"])

Alias = Annotated[str, Path(pattern=r"^[a-z][a-z0-9_-]{0,31}$", description="Lower case letters, digits, - and _, at most 32.")]


class AliasTarget(BaseModel):
    """Where an alias shall point."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = Field(ge=1, lt=2**31, description="The number of a model version.")
    reason: str = Field("set by hand", min_length=1, max_length=500, description="Why, for the alias's history.")


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
def set_alias(alias: Alias, target: AliasTarget, parts: AllParts) -> dict[str, Any]:
    """Let an alias mean another version. Predictions follow within a second, or stay with the old one if the new cannot be loaded."""
    parts.registry.set_alias(alias, target.version, target.reason)
    parts.predictors.wake()
    return {"alias": alias, "version": target.version}


@router.get("/aliases/{alias}/history")
def history(alias: str, models: Models) -> dict[str, Any]:
    """Every move of an alias, newest first."""
    return {"items": [asdict(move) for move in models.history(alias)]}


@router.get("/{name}")
def get(name: str, models: Models, settings: Limits) -> dict[str, Any]:
    """One version, by its number or by an alias: its row and its package.json."""
    model = models.get(resolve(models, name))
    return _json(model) | {"package": _package(model, settings)}


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
