"""Model, AliasMove, Registry: the published models, their versions, and the aliases that predictions ask for.

A version is a row here and a package on disk, in the folder of `Settings.models` that its digest names: the folder is renamed into place
before `publish`, so that no version is ever seen without its files. Where an alias points is the newest line of its own history.
"""

import builtins
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Engine, func, select

from catdog.database import aliases, alone, models, reading, timestamp, writing
from catdog.errors import NotFound
from catdog.jobs import Claim, JobState, end

_ALIASES = "aliases"


@dataclass(frozen=True, slots=True)
class Model:
    """A published model. It never changes."""

    version: int
    """Counted from 1; a later success has a higher one. A number may be left out."""
    job_id: str
    digest: str
    """sha256 of its package.json, in hex."""
    labels: list[str]
    """In the order of the logits."""
    metrics: dict[str, Any]
    created: str


@dataclass(frozen=True, slots=True)
class AliasMove:
    """One line of an alias's history."""

    alias: str
    version: int
    reason: str
    created: str


class Registry:
    """The model versions and aliases, in the database of the job record. Every method is one transaction, and may raise Unavailable."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def publish(
        self, claim: Claim, *, digest: str, labels: Sequence[str], metrics: Mapping[str, Any],
        alias: str, promote: Literal["auto", "never"], result: Mapping[str, Any] | None = None,
    ) -> Model | None:
        """End the claim's job as succeeded and make its model a version, both or neither: the single point where a job takes effect.

        Args:
            alias: with promote=auto it moves to the new version; with never it stays where it is, even if that is nowhere.

        Returns:
            The new version; None: the lease is not ours any more and nothing was written.
        """
        with writing(self._engine) as connection:
            if not end(connection, claim, state=JobState.SUCCEEDED, result=result):
                return None
            alone(connection, _ALIASES)  # versions and moves are then in the order in which they are seen
            inserted = models.insert().values(
                job_id=claim.job_id, digest=digest, labels=[*labels], metrics=dict(metrics), created=timestamp(),
            ).returning(*models.c)
            model = Model(**connection.execute(inserted).mappings().one())
            if promote == "auto":
                _move(connection, alias, model.version, reason=f"published by {claim.job_id}")
            return model

    def get(self, version: int) -> Model:
        """Read a version.

        Raises:
            NotFound: there is none with this number.
        """
        with reading(self._engine) as connection:
            return _model(connection, version)

    def list(self) -> builtins.list[Model]:
        """Every version, newest first."""
        with reading(self._engine) as connection:
            return [Model(**row) for row in connection.execute(select(models).order_by(models.c.version.desc())).mappings()]

    def aliases(self) -> dict[str, int]:
        """The version that each alias points to."""
        newest = select(func.max(aliases.c.seq)).group_by(aliases.c.alias)
        query = select(aliases.c.alias, aliases.c.version).where(aliases.c.seq.in_(newest)).order_by(aliases.c.alias)
        with reading(self._engine) as connection:
            return {row.alias: row.version for row in connection.execute(query)}

    def set_alias(self, alias: str, version: int, reason: str) -> None:
        """Let an alias (a name as config.Publish allows it) point to a version. Where it points there already, nothing is written.

        Raises:
            NotFound: there is no such version.
        """
        with writing(self._engine) as connection:
            alone(connection, _ALIASES)
            _model(connection, version)
            newest = select(aliases.c.version).where(aliases.c.alias == alias).order_by(aliases.c.seq.desc()).limit(1)
            if connection.scalar(newest) != version:
                _move(connection, alias, version, reason=reason)

    def history(self, alias: str) -> builtins.list[AliasMove]:
        """Every move of an alias, newest first.

        Raises:
            NotFound: it has never been set.
        """
        columns = (aliases.c.alias, aliases.c.version, aliases.c.reason, aliases.c.created)
        query = select(*columns).where(aliases.c.alias == alias).order_by(aliases.c.seq.desc())
        with reading(self._engine) as connection:
            moves = [AliasMove(**row) for row in connection.execute(query).mappings()]
        if not moves:
            raise NotFound(f"Expected an alias that has been set. Received: {alias[:200]!r}.", remedy="Publish a model under it or set it.")
        return moves


def _model(connection: Connection, version: int) -> Model:
    row = connection.execute(select(models).where(models.c.version == version)).mappings().one_or_none()
    if row is None:
        raise NotFound(f"Expected the number of a model version. Received: {version}.", remedy="List the versions with GET /v1/models.")
    return Model(**row)


def _move(connection: Connection, alias: str, version: int, *, reason: str) -> None:
    connection.execute(aliases.insert().values(alias=alias, version=version, reason=reason, created=timestamp()))
