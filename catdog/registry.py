"""Model, AliasMove, Registry: the published models, their versions, and the aliases that predictions ask for.

A version is a row here and a package on disk, in the folder of `Settings.models` that its digest names: the folder is renamed into place
before `publish`, so that no version is ever seen without its files. Where an alias points is the newest line of its own history.

An alias moves through the gate of promotion.py, whoever moves it. `force` passes anyway, and going back needs nothing; either stands in
the history.
"""

import builtins
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Engine, Select, func, select

from catdog.comparison import Comparison
from catdog.database import aliases, alone, comparisons, models, reading, timestamp, writing
from catdog.errors import Conflict, NotFound
from catdog.jobs import Claim, JobState, end
from catdog.promotion import promotion, refusal

_ALIASES = "aliases"

How = Literal["first", "compared", "forced", "rollback", "unchecked"]
"""How an alias came to move: there was no champion; by a comparison; although the gate refused; back; before there was a gate."""


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
    how: How
    comparison: dict[str, Any] | None
    """With the champion of then: its version, the job that compared, and what Comparison.to_dict says. None: there was none."""
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
            alias: with promote=auto it moves to the new version, if the gate lets it; the job's result says in `promotion` whether, and
                why not. With never it stays where it is, even if that is nowhere.
            result: of the run. Its `comparison`, if there is one, has the digest of the other package as `champion_digest`.

        Returns:
            The new version; None: the lease is not ours any more and nothing was written.
        """
        result = dict(result or {})
        evidence = result.get("comparison")
        with writing(self._engine) as connection:
            alone(connection, _ALIASES)  # versions and moves are then in the order in which they are seen
            champion = _champion(connection, alias)
            is_current = evidence is not None and champion is not None and evidence["champion_digest"] == champion.digest
            comparison = Comparison.from_dict(evidence) if evidence and is_current else None
            refused = refusal(alias, labels, champion, comparison)
            if promote == "auto":
                result["promotion"] = promotion(alias, champion, refused)
            if not end(connection, claim, state=JobState.SUCCEEDED, result=result):
                return None
            inserted = models.insert().values(
                job_id=claim.job_id, digest=digest, labels=[*labels], metrics=dict(metrics), created=timestamp(),
            ).returning(*models.c)
            model = Model(**connection.execute(inserted).mappings().one())
            seq = None
            if champion is not None and comparison is not None:
                seq = _keep(connection, claim.job_id, model.version, champion.version, comparison)
            if promote == "auto" and refused is None:
                how: How = "first" if champion is None else "compared"
                _move(connection, alias, model.version, reason=f"published by {claim.job_id}", how=how, comparison=seq)
            return model

    def compared(self, claim: Claim, comparison: Comparison) -> bool:
        """End the claim's job, a comparison, as succeeded and keep what it found, or neither. False: the lease is not ours any more."""
        with writing(self._engine) as connection:
            if not end(connection, claim, state=JobState.SUCCEEDED, result={"comparison": comparison.to_dict()}):
                return False
            _keep(connection, claim.job_id, claim.config["challenger"], claim.config["champion"], comparison)
            return True

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

    def champion(self, alias: str) -> Model | None:
        """The version that an alias points to; None: it has never been set."""
        with reading(self._engine) as connection:
            return _champion(connection, alias)

    def set_alias(self, alias: str, version: int, reason: str, *, force: bool = False) -> AliasMove:
        """Let an alias (a name as config.Publish allows it) point to a version. Where it points there already, nothing is written.

        Raises:
            NotFound: there is no such version.
            CompareFirst, NotComparable, NotPromoted: the gate refuses, and nobody forces it.
        """
        with writing(self._engine) as connection:
            alone(connection, _ALIASES)
            model, champion = _model(connection, version), _champion(connection, alias)
            if champion is None or champion.version != version:
                seq, comparison = _comparison(connection, version, champion)
                refused = refusal(alias, model.labels, champion, comparison)
                if refused is not None and not force:
                    raise refused
                how: How = "first" if champion is None else "compared" if refused is None else "forced"
                _move(connection, alias, version, reason=reason, how=how, comparison=seq)
            return _history(connection, alias)[0]

    def roll_back(self, alias: str, reason: str, *, to: int) -> AliasMove:
        """Let an alias point to the version before the present one, which is `to` (see `before`); once more goes one further back.

        Raises:
            NotFound: it has never been set.
            Conflict: there is no version before, or it is another one, because the alias has moved meanwhile.
        """
        with writing(self._engine) as connection:
            alone(connection, _ALIASES)
            version = _before(_history(connection, alias))
            if version != to:
                raise Conflict(
                    f"Expected {alias} to go back to version {to}. Received: one that has moved meanwhile and goes back to {version}.",
                    remedy="Look at its history and ask again.",
                )
            _move(connection, alias, version, reason=reason, how="rollback", comparison=None)
            return _history(connection, alias)[0]

    def before(self, alias: str) -> int:
        """The version that `roll_back` would lead to.

        Raises:
            NotFound, Conflict: as roll_back.
        """
        return _before(self.history(alias))

    def history(self, alias: str) -> builtins.list[AliasMove]:
        """Every move of an alias, newest first.

        Raises:
            NotFound: it has never been set.
        """
        with reading(self._engine) as connection:
            return _history(connection, alias)


def _model(connection: Connection, version: int) -> Model:
    row = connection.execute(select(models).where(models.c.version == version)).mappings().one_or_none()
    if row is None:
        raise NotFound(f"Expected the number of a model version. Received: {version}.", remedy="List the versions with GET /v1/models.")
    return Model(**row)


def _champion(connection: Connection, alias: str) -> Model | None:
    newest = select(aliases.c.version).where(aliases.c.alias == alias).order_by(aliases.c.seq.desc()).limit(1)
    row = connection.execute(select(models).where(models.c.version == newest.scalar_subquery())).mappings().one_or_none()
    return None if row is None else Model(**row)


def _comparison(connection: Connection, challenger: int, champion: Model | None) -> tuple[int, Comparison] | tuple[None, None]:
    """The newest of these two, and its number."""
    if champion is None:
        return None, None
    of_both = (comparisons.c.challenger == challenger) & (comparisons.c.champion == champion.version)
    row = connection.execute(select(comparisons).where(of_both).order_by(comparisons.c.seq.desc()).limit(1)).one_or_none()
    return (None, None) if row is None else (row.seq, Comparison.from_dict(row.evidence))


def _keep(connection: Connection, job_id: str, challenger: int, champion: int, comparison: Comparison) -> int:
    row = {"job_id": job_id, "challenger": challenger, "champion": champion, "evidence": comparison.to_dict()}
    seq: int = connection.execute(comparisons.insert().values(row).returning(comparisons.c.seq)).scalar_one()
    return seq


def _move(connection: Connection, alias: str, version: int, *, reason: str, how: How, comparison: int | None) -> None:
    row = {"alias": alias, "version": version, "reason": reason, "how": how, "comparison": comparison, "created": timestamp()}
    connection.execute(aliases.insert().values(row))


def _moves(alias: str) -> Select[Any]:
    evidence = (comparisons.c.evidence, comparisons.c.job_id, comparisons.c.champion)
    return select(aliases.c.version, aliases.c.reason, aliases.c.how, aliases.c.created, *evidence).outerjoin(
        comparisons, comparisons.c.seq == aliases.c.comparison,
    ).where(aliases.c.alias == alias).order_by(aliases.c.seq.desc())


def _history(connection: Connection, alias: str) -> builtins.list[AliasMove]:
    moves = [
        AliasMove(
            alias, row.version, row.reason, row.how, created=row.created,
            comparison=row.evidence and row.evidence | {"job_id": row.job_id, "champion": row.champion},
        )
        for row in connection.execute(_moves(alias))
    ]
    if not moves:
        raise NotFound(f"Expected an alias that has been set. Received: {alias[:200]!r}.", remedy="Publish a model under it or set it.")
    return moves


def _before(history: Sequence[AliasMove]) -> int:
    """What was gone back from is forgotten; of the rest the last but one."""
    kept: list[int] = []
    for move in reversed(history):
        if move.how == "rollback":
            kept.pop()
        else:
            kept.append(move.version)
    if len(kept) < 2:
        raise Conflict(
            f"Expected an alias with a version before the present one. Received: {history[0].alias}, which has had none.",
            remedy="Let it point to another version with PUT.",
        )
    return kept[-2]
