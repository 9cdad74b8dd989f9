"""JobState, Job, Claim, Lease, Event, JobStore, end: the record of every job, and who may write it.

A job is accepted when `create` has returned, and nothing accepted is lost. A worker owns a running job by the fence of its claim: every
later write names it, and a write that changes no row means "not mine any more". Wall clocks are for people to read; a lease is judged by
whether its heartbeat counter moves. The one exception is the back-off, whose error is only to be early or late.
The row of a job is locked before its events are written, so that the events of one job are seen in the order of their seq.
"""

import builtins
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import Any, Literal, Self

import uuid6
from sqlalchemy import ColumnElement, Connection, Engine, RowMapping, case, func, select
from sqlalchemy.exc import IntegrityError

from catdog.database import events, jobs, models, reading, timestamp, writing
from catdog.errors import FAILURES, BadInput, Conflict, NotFound
from catdog.process import Identity
from catdog.progress import PHASES, Progress

MAX_LOSSES = 3
"""So many attempts lost in a row, none of which got further than the ones before, end a job as worker_lost."""
BACK_OFF_SECONDS = 5.0
MAX_BACK_OFF_SECONDS = 300.0
MAX_KEY_LENGTH = 255

Actor = Literal["user", "worker", "reaper"]


class JobState(StrEnum):
    """Where a job is: queued -> running -> succeeded | failed | cancelled; queued -> cancelled; running -> queued (drained or lost)."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether the job's row never changes again."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stood when it was read. Times are ISO-8601 in UTC, for people."""

    id: str
    kind: str
    state: JobState
    phase: str | None
    """The phase that the present or last attempt has reached, one of progress.PHASES."""
    attempt: int
    """Attempts begun; drained ones are not counted."""
    fence: int
    """The number of the newest claim; it never goes back."""
    progress: dict[str, Any] | None
    """The newest Progress, without its absent fields."""
    config: dict[str, Any]
    device: dict[str, Any] | None
    error: dict[str, str] | None
    """code (one of errors.FAILURES), message, remedy."""
    result: dict[str, Any] | None
    model: int | None
    """The version it published."""
    resumed_from: str | None
    cancel_requested: bool
    created: str
    started: str | None
    """When it was claimed for the first time."""
    finished: str | None
    updated: str

    @classmethod
    def of(cls, row: RowMapping) -> Self:
        """The job of a row of `jobs` with the column `model`."""
        return cls(**{name: row[name] for name in cls.__slots__ if name != "state"}, state=JobState(row["state"]))


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work on a job, until somebody claims it anew."""

    job_id: str
    fence: int
    attempt: int
    kind: str
    config: dict[str, Any]
    resumed_from: str | None = None
    """The job whose newest checkpoint this one begins with."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A running job as the reaper sees it: lost if `heartbeat` does not move, or if `owner` is dead."""

    job_id: str
    fence: int
    heartbeat: int
    owner: Identity


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to a job, for ever. `kind` is that of a Progress, or "state" for a transition {from, to, actor, reason?}."""

    seq: int
    """Rises over all jobs, with gaps."""
    job_id: str
    fence: int
    kind: str
    data: dict[str, Any]
    created: str


class JobStore:
    """The job record. Each method is one transaction; it raises Unavailable, and has changed nothing, when the database does not answer."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(
        self, config: Mapping[str, Any], *, kind: str = "train", resumed_from: str | None = None, idempotency_key: str | None = None,
    ) -> tuple[Job, bool]:
        """Accept a job; when this returns, it is on disk. The bool: newly made, or the one that the same key made before.

        Raises:
            BadInput: the key was used for another request, or is empty or longer than MAX_KEY_LENGTH.
            NotFound: there is no job `resumed_from`.
        """
        digest = _digest(config, kind, resumed_from, key=idempotency_key)
        now = timestamp()
        job_id = f"job_{uuid6.uuid7().hex}"
        row = {
            "id": job_id, "kind": kind, "state": JobState.QUEUED, "config": dict(config), "resumed_from": resumed_from,
            "idempotency_key": idempotency_key, "request_sha256": digest, "created": now, "updated": now,
        }
        try:
            with writing(self._engine) as connection:
                earlier = _job_of_key(connection, idempotency_key, digest)
                if earlier is not None:
                    return earlier, False
                if resumed_from is not None:
                    _job(connection, resumed_from)
                connection.execute(jobs.insert().values(row))
                _record_state(connection, job_id, fence=0, transition=_Transition(None, JobState.QUEUED, "user"))
                return _job(connection, job_id), True
        except IntegrityError:  # PostgreSQL: the same key was being written at the same moment
            replayed = self.replayed(config, kind=kind, resumed_from=resumed_from, idempotency_key=idempotency_key)
            if replayed is None:
                raise
            return replayed, False

    def replayed(
        self, config: Mapping[str, Any], *, kind: str = "train", resumed_from: str | None = None, idempotency_key: str | None,
    ) -> Job | None:
        """The job that `create` made of the same request with the same key. None: it would make a new one.

        Raises:
            BadInput: as create.
        """
        digest = _digest(config, kind, resumed_from, key=idempotency_key)
        with reading(self._engine) as connection:
            return _job_of_key(connection, idempotency_key, digest)

    def get(self, job_id: str) -> Job:
        """Read a job.

        Raises:
            NotFound: there is none with this id.
        """
        with reading(self._engine) as connection:
            return _job(connection, job_id)

    def list(self, *, state: JobState | None = None, limit: int = 50, after: str | None = None) -> builtins.list[Job]:
        """Jobs, newest first; `after` is the id of the last one of the page before."""
        query = _JOBS.order_by(jobs.c.id.desc()).limit(limit)
        if state is not None:
            query = query.where(jobs.c.state == state)
        if after is not None:
            query = query.where(jobs.c.id < after)
        with reading(self._engine) as connection:
            return [Job.of(row) for row in connection.execute(query).mappings()]

    def request_cancel(self, job_id: str) -> Job:
        """Cancel a queued job at once; ask the worker of a running one to. A cancelled job is returned as it is.

        Raises:
            NotFound: there is none with this id.
            Conflict: the job has succeeded or failed.
        """
        with writing(self._engine) as connection:
            job = _job(connection, job_id, lock=True)
            if job.state is JobState.QUEUED:
                _end(connection, job.id, fence=job.fence, transition=_Transition(JobState.QUEUED, JobState.CANCELLED, "user"))
            elif job.state is JobState.RUNNING:
                changed = jobs.update().where(jobs.c.id == job_id, jobs.c.state == JobState.RUNNING)
                connection.execute(changed.values(cancel_requested=True, updated=timestamp()))
            elif job.state is not JobState.CANCELLED:
                raise Conflict(
                    f"Expected a job that is queued or running. Received: {job.id}, which has {job.state}.",
                    remedy="Nothing is left to cancel; its result or its error is in the job.",
                )
            return _job(connection, job_id)

    def using(self, dataset_id: str) -> builtins.list[str]:
        """The ids of the jobs that are queued or running with this data set."""
        unfinished = jobs.c.state.in_((JobState.QUEUED, JobState.RUNNING))
        query = select(jobs.c.id).where(unfinished, jobs.c.config["dataset"].as_string() == dataset_id).order_by(jobs.c.id)
        with reading(self._engine) as connection:
            return [*connection.scalars(query)]

    def claim(self, job_id: str, owner: Identity, *, now: datetime | None = None) -> Claim | None:
        """Take a queued job. None: it is not queued (any more), not due yet, or unknown; of many rivals exactly one gets it."""
        moment = now or datetime.now(UTC)
        changed = jobs.update().where(
            jobs.c.id == job_id, jobs.c.state == JobState.QUEUED, ~jobs.c.cancel_requested, jobs.c.next_run_at <= moment.timestamp(),
        ).values(
            state=JobState.RUNNING, fence=jobs.c.fence + 1, attempt=jobs.c.attempt + 1, heartbeat=jobs.c.heartbeat + 1,
            owner=asdict(owner), started=func.coalesce(jobs.c.started, timestamp(moment)), updated=timestamp(moment),
        ).returning(jobs.c.fence, jobs.c.attempt, jobs.c.kind, jobs.c.config, jobs.c.resumed_from)
        with writing(self._engine) as connection:
            row = connection.execute(changed).mappings().one_or_none()
            if row is None:
                return None
            _record_state(connection, job_id, fence=row["fence"], transition=_Transition(JobState.QUEUED, JobState.RUNNING, "worker"))
            return Claim(job_id, **row)

    def report(self, claim: Claim, *, progress: Progress | None = None, events: Sequence[Progress] = ()) -> bool | None:
        """Renew the lease, and write what the run has said since the last time.

        Args:
            progress: the newest, of any kind; it replaces the job's.
            events: what is kept for ever, in order: every kind but `step`. A checkpoint or a phase beyond those of all earlier attempts
                says that the job gets further. `device` of an event's result becomes the job's.

        Returns:
            Whether the job shall be cancelled; None: the lease is not ours any more and nothing was written.
        """
        if any(said.kind == "step" for said in events):
            raise ValueError("Expected events that are kept. Received: one of the kind step, which is only for progress.")
        said = [*events, *([progress] if progress else [])]
        values: dict[str, Any] = {"heartbeat": jobs.c.heartbeat + 1, "updated": timestamp()}
        if progress is not None:
            values["progress"] = _fields(progress)
        phase = max((PHASES.index(one.phase) for one in said if one.phase in PHASES), default=-1)
        if phase >= 0:
            values["phase"] = PHASES[phase]  # the furthest: a step read just before a new phase must not turn it back
        devices = [one.result["device"] for one in events if one.result and isinstance(one.result.get("device"), dict)]
        if devices:
            values["device"] = _finite(devices[-1])
        step = max((one.step or 0 for one in events if one.kind == "checkpoint"), default=-1)
        values["furthest_phase"] = case((jobs.c.furthest_phase < phase, phase), else_=jobs.c.furthest_phase)
        values["furthest_step"] = case((jobs.c.furthest_step < step, step), else_=jobs.c.furthest_step)
        gained = (jobs.c.furthest_phase < phase) | (jobs.c.furthest_step < step)
        values["losses"] = case((gained, 0), else_=jobs.c.losses)
        with writing(self._engine) as connection:
            renewed = jobs.update().where(_held(claim.job_id, claim.fence)).values(values)
            asked = connection.scalar(renewed.returning(jobs.c.cancel_requested))
            if asked is None:
                return None
            for one in events:
                _record(connection, claim.job_id, fence=claim.fence, kind=one.kind, data=_fields(one))
            return bool(asked)

    def finish(
        self, claim: Claim, *, state: JobState, error: Mapping[str, str] | None = None, result: Mapping[str, Any] | None = None,
    ) -> bool:
        """End a running job; failed with an error: code, message, remedy. False: the lease is not ours any more.

        A training succeeds by Registry.publish alone, a comparison by Registry.compared.
        """
        if not state.is_terminal or (state is JobState.SUCCEEDED and claim.kind in ("train", "compare")):
            raise ValueError(f"Expected failed or cancelled, or succeeded where nothing else is kept. Received: {state} of {claim.kind}.")
        if (state is JobState.FAILED) != (error is not None):
            raise ValueError(f"Expected an error with failed and with nothing else. Received: state={state}, error={error}.")
        if error is not None and (set(error) != {"code", "message", "remedy"} or error["code"] not in FAILURES):
            raise ValueError(f"Expected a code of errors.FAILURES, a message and a remedy. Received: {dict(error)}.")
        with writing(self._engine) as connection:
            return end(connection, claim, state=state, error=error, result=result)

    def release(
        self, claim: Claim, *, counted: bool, delay_seconds: float = 0.0, reason: str | None = None, now: datetime | None = None,
    ) -> bool:
        """Give a running job back. False: the lease is not ours any more.

        Args:
            counted: False for a drain, as if the attempt had never been; True for an attempt that died, which counts as `expire` counts:
                too many in a row end the job as failed(worker_lost).
            delay_seconds: the job is not due before; the back-off may make it longer.
            reason: what happened (the child's exit status), for the event and the error.

        A job whose cancellation was asked for is cancelled instead of queued.
        """
        with writing(self._engine) as connection:
            row = connection.execute(select(jobs).where(_held(claim.job_id, claim.fence)).with_for_update()).mappings().one_or_none()
            if row is None:
                return False
            _give_back(connection, row, actor="worker", counted=counted, delay_seconds=delay_seconds, reason=reason, now=now)
            return True

    def expire(self, lease: Lease, *, reason: str | None = None, now: datetime | None = None) -> JobState | None:
        """Take back a lease that was judged lost, unless it was renewed or lost since it was read (None).

        Returns:
            queued: to be tried again, at once after the first loss, after a pause from the second in a row on that got no further;
            failed: MAX_LOSSES in a row got no further; cancelled: the cancellation had been asked for.
        """
        unmoved = _held(lease.job_id, lease.fence) & (jobs.c.heartbeat == lease.heartbeat)
        with writing(self._engine) as connection:
            row = connection.execute(select(jobs).where(unmoved).with_for_update()).mappings().one_or_none()
            if row is None:
                return None
            return _give_back(connection, row, actor="reaper", counted=True, delay_seconds=0.0, reason=reason, now=now)

    def leases(self) -> builtins.list[Lease]:
        """Every running job's lease."""
        query = select(jobs.c.id, jobs.c.fence, jobs.c.heartbeat, jobs.c.owner).where(jobs.c.state == JobState.RUNNING).order_by(jobs.c.id)
        with reading(self._engine) as connection:
            return [Lease(*row[:3], owner=Identity(**row[3])) for row in connection.execute(query)]

    def due(self, *, now: datetime | None = None) -> builtins.list[str]:
        """The ids of the jobs that a worker could claim now, oldest first."""
        moment = (now or datetime.now(UTC)).timestamp()
        query = select(jobs.c.id).where(jobs.c.state == JobState.QUEUED, jobs.c.next_run_at <= moment).order_by(jobs.c.id)
        with reading(self._engine) as connection:
            return builtins.list(connection.scalars(query))

    def waiting(self) -> int:
        """How many jobs are queued, those in their back-off included (`due` leaves these out)."""
        with reading(self._engine) as connection:
            return connection.scalar(select(func.count()).where(jobs.c.state == JobState.QUEUED)) or 0

    def events(self, job_id: str, *, after: int = 0, limit: int = 500) -> builtins.list[Event]:
        """The events of a job beyond seq `after`, in order; none for an unknown job."""
        query = select(events).where(events.c.job_id == job_id, events.c.seq > after).order_by(events.c.seq).limit(limit)
        with reading(self._engine) as connection:
            return [Event(**row) for row in connection.execute(query).mappings()]


def end(
    connection: Connection, claim: Claim, *, state: JobState,
    error: Mapping[str, str] | None = None, result: Mapping[str, Any] | None = None,
) -> bool:
    """Within a transaction, end the job of a claim. False: the lease is not ours any more, write nothing else."""
    transition = _Transition(JobState.RUNNING, state, "worker")
    return _end(connection, claim.job_id, fence=claim.fence, transition=transition, error=error, result=result)


@dataclass(frozen=True, slots=True)
class _Transition:
    old: JobState | None
    new: JobState
    actor: Actor
    reason: str | None = None


_JOBS = select(jobs, models.c.version.label("model")).select_from(jobs.outerjoin(models, models.c.job_id == jobs.c.id))


def _held(job_id: str, fence: int) -> ColumnElement[bool]:
    return (jobs.c.id == job_id) & (jobs.c.fence == fence) & (jobs.c.state == JobState.RUNNING)


def _job(connection: Connection, job_id: str, *, lock: bool = False) -> Job:
    query = _JOBS.where(jobs.c.id == job_id)
    if lock:
        query = query.with_for_update(of=jobs)
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise NotFound(f"Expected the id of a job. Received: {job_id[:200]!r}.", remedy="List the jobs with GET /v1/jobs.")
    return Job.of(row)


def _digest(config: Mapping[str, Any], kind: str, resumed_from: str | None, *, key: str | None) -> str:
    """What tells this request from others with the same key."""
    if key is not None and not 0 < len(key) <= MAX_KEY_LENGTH:
        raise BadInput(f"Expected an idempotency key of 1 to {MAX_KEY_LENGTH} characters. Received: {len(key)} characters.")
    request = json.dumps({"kind": kind, "config": dict(config), "resumed_from": resumed_from}, sort_keys=True, allow_nan=False)
    return hashlib.sha256(request.encode()).hexdigest()


def _job_of_key(connection: Connection, key: str | None, digest: str) -> Job | None:
    if key is None:
        return None
    row = connection.execute(_JOBS.where(jobs.c.idempotency_key == key)).mappings().one_or_none()
    if row is None:
        return None
    if row["request_sha256"] != digest:
        raise BadInput(
            f"Expected the request that the idempotency key stands for. Received: another request with the key of {row['id']}.",
            remedy="Send a new key with a new request.",
        )
    return Job.of(row)


def _end(
    connection: Connection, job_id: str, *, fence: int, transition: _Transition,
    error: Mapping[str, str] | None = None, result: Mapping[str, Any] | None = None, now: datetime | None = None,
) -> bool:
    cancelled = transition.new is JobState.CANCELLED
    changed = jobs.update().where(jobs.c.id == job_id, jobs.c.fence == fence, jobs.c.state == transition.old).values(
        state=transition.new, error=error and dict(error), result=_finite(result and dict(result)),
        cancel_requested=True if cancelled else jobs.c.cancel_requested, finished=timestamp(now), updated=timestamp(now),
    )
    if connection.execute(changed).rowcount == 0:
        return False
    _record_state(connection, job_id, fence=fence, transition=transition)
    return True


def _give_back(
    connection: Connection, row: RowMapping, *, actor: Actor, counted: bool, delay_seconds: float, reason: str | None, now: datetime | None,
) -> JobState:
    """Running -> queued, or cancelled when asked for, or failed after too many losses; `row` is locked."""
    moment = now or datetime.now(UTC)
    losses = row["losses"] + counted
    job_id, fence = row["id"], row["fence"]
    leave = partial(_Transition, JobState.RUNNING, actor=actor, reason=reason)
    if row["cancel_requested"]:
        _end(connection, job_id, fence=fence, transition=leave(JobState.CANCELLED), now=moment)
        return JobState.CANCELLED
    if counted and losses >= MAX_LOSSES:
        error = {
            "code": "worker_lost", "remedy": FAILURES["worker_lost"],
            "message": f"Expected a run that gets further. Received: {losses} attempts in a row that were lost"
                       f" in the phase {row['phase'] or 'preparing'} ({reason or 'their worker stopped renewing its lease'}).",
        }
        _end(connection, job_id, fence=fence, transition=leave(JobState.FAILED), error=error, now=moment)
        return JobState.FAILED
    if counted and losses > 1:
        delay_seconds = max(delay_seconds, min(BACK_OFF_SECONDS * 2 ** (losses - 2), MAX_BACK_OFF_SECONDS))
    connection.execute(jobs.update().where(_held(job_id, fence)).values(
        state=JobState.QUEUED, losses=losses, attempt=row["attempt"] - (not counted), owner=None,
        next_run_at=moment.timestamp() + delay_seconds, updated=timestamp(moment),
    ))
    _record_state(connection, job_id, fence=fence, transition=leave(JobState.QUEUED))
    return JobState.QUEUED


def _record_state(connection: Connection, job_id: str, *, fence: int, transition: _Transition) -> None:
    data: dict[str, Any] = {"from": transition.old, "to": transition.new, "actor": transition.actor}
    if transition.reason:
        data["reason"] = transition.reason
    _record(connection, job_id, fence=fence, kind="state", data=data)


def _record(connection: Connection, job_id: str, *, fence: int, kind: str, data: dict[str, Any]) -> None:
    connection.execute(events.insert().values(job_id=job_id, fence=fence, kind=kind, data=data, created=timestamp()))


def _fields(progress: Progress) -> dict[str, Any]:
    fields: dict[str, Any] = _finite({key: value for key, value in asdict(progress).items() if value is not None})
    return fields


def _finite(value: Any) -> Any:
    """Replace nan and inf by None, which JSON can hold: a run whose loss is not finite must still be able to say so."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
