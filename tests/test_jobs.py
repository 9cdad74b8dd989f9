"""The job record: one owner at a time, nothing lost, nothing written by a stale fence."""

import multiprocessing
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import Engine
from sqlalchemy import event as hooks

from catdog.database import aliases, create_engine, events, jobs, models, writing
from catdog.errors import BadInput, Conflict, NotFound
from catdog.jobs import MAX_LOSSES, Claim, Job, JobState, JobStore, Lease
from catdog.process import Identity
from catdog.progress import Progress
from catdog.registry import Registry

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
LATER = NOON + timedelta(days=36500)  # whatever the back-off, it is over
OWNER = Identity("host", "boot", "pid:[1]", 41, 1.5)
OUT_OF_MEMORY = {"code": "out_of_memory", "message": "Expected ... Received: ...", "remedy": "Lower batch_size."}


@pytest.fixture
def store(engine: Engine) -> JobStore:
    return JobStore(engine)


def claimed(store: JobStore, job_id: str | None = None, *, now: datetime = LATER) -> Claim:
    claim = store.claim(job_id or store.create({"epochs": 3})[0].id, OWNER, now=now)
    assert claim is not None
    return claim


def only_lease(store: JobStore) -> Lease:
    lease, = store.leases()
    return lease


def states(store: JobStore, job_id: str) -> list[tuple[str | None, str, str]]:
    return [(e.data["from"], e.data["to"], e.data["actor"]) for e in store.events(job_id) if e.kind == "state"]


def test_a_created_job_is_queued_and_can_be_read(store: JobStore) -> None:
    job, new = store.create({"epochs": 3})
    assert new
    assert job == store.get(job.id)
    assert (job.state, job.kind, job.config, job.attempt, job.fence) == (JobState.QUEUED, "train", {"epochs": 3}, 0, 0)
    assert job.id.startswith("job_")
    assert job.created == job.updated
    assert datetime.fromisoformat(job.created).tzinfo is not None
    assert [job.started, job.finished, job.progress, job.error, job.model] == [None] * 5
    assert states(store, job.id) == [(None, "queued", "user")]


def test_jobs_are_listed_newest_first_in_pages(store: JobStore) -> None:
    ids = [store.create({"n": n})[0].id for n in range(5)]
    store.request_cancel(ids[1])
    newest = store.list(limit=2)
    assert [job.id for job in newest] == [ids[4], ids[3]]
    assert [job.id for job in store.list(after=newest[-1].id)] == [ids[2], ids[1], ids[0]]
    assert [job.id for job in store.list(state=JobState.CANCELLED)] == [ids[1]]
    assert store.due() == [ids[0], ids[2], ids[3], ids[4]]
    assert store.waiting() == 4


def test_an_unknown_job_is_not_found(store: JobStore) -> None:
    for ask in (store.get, store.request_cancel):
        with pytest.raises(NotFound, match="Received: 'job_none'"):
            ask("job_none")
    with pytest.raises(NotFound):
        store.create({}, resumed_from="job_none")
    assert store.list() == []
    assert store.claim("job_none", OWNER) is None
    assert store.events("job_none") == []


def test_a_key_makes_one_job_of_one_request(store: JobStore) -> None:
    first, new = store.create({"a": 1, "b": 2}, idempotency_key="k")
    again, new_again = store.create({"b": 2, "a": 1}, idempotency_key="k")
    assert (new, new_again, again) == (True, False, first)
    for a, kind in ((2, "train"), (1, "examine")):
        with pytest.raises(BadInput, match=first.id):
            store.create({"a": a, "b": 2}, kind=kind, idempotency_key="k")
    assert len(store.list()) == 1
    assert store.create({"a": 1, "b": 2})[0].id != store.create({"a": 1, "b": 2})[0].id


def test_what_a_key_made_can_be_looked_up_without_making_anything(store: JobStore) -> None:
    assert store.replayed({"a": 1}, idempotency_key="k") is None
    made, _ = store.create({"a": 1}, idempotency_key="k")
    assert store.replayed({"a": 1}, idempotency_key="k") == made
    assert store.replayed({"a": 1}, idempotency_key=None) is None
    for config, kind in (({"a": 2}, "train"), ({"a": 1}, "examine")):
        with pytest.raises(BadInput, match=made.id):
            store.replayed(config, kind=kind, idempotency_key="k")
    assert store.list() == [made]


@pytest.mark.parametrize("key", ["", "k" * 256])
def test_a_key_has_a_length(store: JobStore, key: str) -> None:
    for ask in (store.create, store.replayed):
        with pytest.raises(BadInput, match="1 to 255 characters"):
            ask({}, idempotency_key=key)


def test_twenty_posts_with_one_key_make_one_job(store: JobStore) -> None:
    start = threading.Barrier(20)

    def post(_: int) -> tuple[Job, bool]:
        start.wait(30)
        return store.create({"epochs": 3}, idempotency_key="k")

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(post, range(20)))
    assert len({job.id for job, _ in answers}) == 1
    assert sum(new for _, new in answers) == 1


def _claim_at_once(url: str, job_id: str, barrier: Barrier, won: "Queue[int | None]") -> None:
    engine = create_engine(url)
    store = JobStore(engine)
    barrier.wait(30)

    def claim(_: int) -> int | None:
        got = store.claim(job_id, OWNER)
        return got.fence if got else None

    with ThreadPoolExecutor(10) as pool:
        for fence in pool.map(claim, range(10)):
            won.put(fence)
    engine.dispose()


def test_of_twenty_claims_in_two_processes_one_wins(store: JobStore, database_url: str) -> None:
    job, _ = store.create({})
    context = multiprocessing.get_context("spawn")
    barrier, won = context.Barrier(2), context.Queue()
    processes = [context.Process(target=_claim_at_once, args=(database_url, job.id, barrier, won)) for _ in range(2)]
    for process in processes:
        process.start()
    fences = [won.get(timeout=60) for _ in range(20)]
    for process in processes:
        process.join()
    assert sorted(fences, key=str) == [1] + [None] * 19
    assert (store.get(job.id).attempt, len(states(store, job.id))) == (1, 2)


def test_who_reads_event_by_event_misses_none_while_others_write(store: JobStore) -> None:
    claim = claimed(store)
    start = threading.Barrier(5)

    def report(writer: int) -> None:
        start.wait(30)
        for step in range(12):
            store.report(claim, events=[Progress("epoch", epoch=writer, step=step), Progress("checkpoint", epoch=writer, step=step)])

    def follow() -> list[int]:
        start.wait(30)
        seen: list[int] = [0]
        page: list[int] = []
        ended = False
        while page or not ended:
            ended = all(writer.done() for writer in writers)
            page = [event.seq for event in store.events(claim.job_id, after=seen[-1], limit=7)]
            seen += page
        return seen[1:]

    with ThreadPoolExecutor(5) as pool:
        writers = [pool.submit(report, writer) for writer in range(4)]
        seen = pool.submit(follow).result()
    assert seen == [event.seq for event in store.events(claim.job_id)]


@pytest.mark.parametrize("text", ["nothing\0more", "\ud83d", "'; DROP TABLE jobs; --"])
def test_strange_text_is_kept_or_unknown(store: JobStore, text: str) -> None:
    claim = claimed(store, store.create({"note": text})[0].id)
    assert store.get(claim.job_id).config == {"note": text}
    store.report(claim, progress=Progress("step", message=text), events=[Progress("warning", message=text)])
    assert store.events(claim.job_id)[-1].data["message"] == text
    assert store.finish(claim, state=JobState.FAILED, error={"code": "internal", "message": text, "remedy": text})
    assert (store.get(claim.job_id).error or {})["message"] == text


def test_an_id_with_a_nul_is_an_unknown_one(store: JobStore) -> None:
    job_id = store.create({}, idempotency_key="k\0")[0].id
    assert store.create({}, idempotency_key="k\0") == (store.get(job_id), False)
    with pytest.raises(NotFound):
        store.get(job_id + "\0")
    assert store.claim(job_id + "\0", OWNER) is None and store.events(job_id + "\0") == []
    assert [job.id for job in store.list(after="\0")] == [job_id]


def test_a_claim_carries_what_the_worker_needs(store: JobStore) -> None:
    job, _ = store.create({"epochs": 3}, kind="examine")
    claim = store.claim(job.id, OWNER, now=LATER)
    assert claim == Claim(job.id, fence=1, attempt=1, kind="examine", config={"epochs": 3})
    successor = claimed(store, store.create({"epochs": 6}, resumed_from=job.id)[0].id)
    assert successor.resumed_from == job.id
    store.finish(successor, state=JobState.CANCELLED)
    lease = only_lease(store)
    assert (lease.job_id, lease.fence, lease.owner) == (job.id, 1, OWNER)
    running = store.get(job.id)
    assert running.state is JobState.RUNNING
    assert running.started is not None
    assert store.due(now=LATER) == []


def test_a_report_renews_the_lease_and_shows_how_far_the_run_is(store: JobStore) -> None:
    claim = claimed(store)
    before = only_lease(store)
    device = {"name": "cpu", "reason": "no GPU"}
    preparing = Progress("phase", phase="preparing", result={"device": device})
    assert store.report(claim, events=[preparing]) is False
    step = Progress("step", phase="features", step=3, train_loss=float("nan"))
    assert store.report(claim, progress=step, events=[Progress("phase", phase="training")]) is False
    assert store.report(claim) is False
    job = store.get(claim.job_id)
    assert job.phase == "training"
    assert job.device == device
    assert job.progress == {"kind": "step", "phase": "features", "step": 3, "train_loss": None}
    assert only_lease(store).heartbeat == before.heartbeat + 3
    kept = store.events(claim.job_id)
    assert [event.kind for event in kept] == ["state", "state", "phase", "phase"]
    assert kept[2].data == {"kind": "phase", "phase": "preparing", "result": {"device": device}}
    assert [event.seq for event in store.events(claim.job_id, after=kept[1].seq, limit=1)] == [kept[2].seq]


def test_a_step_is_no_event(store: JobStore) -> None:
    claim = claimed(store)
    with pytest.raises(ValueError, match="kind step"):
        store.report(claim, events=[Progress("step", step=1)])


def test_a_queued_job_is_cancelled_at_once(store: JobStore) -> None:
    job, _ = store.create({})
    cancelled = store.request_cancel(job.id)
    assert cancelled.state is JobState.CANCELLED
    assert cancelled.cancel_requested
    assert cancelled.finished is not None
    assert store.request_cancel(job.id) == cancelled
    assert store.claim(job.id, OWNER, now=LATER) is None


def test_a_running_job_is_asked_to_stop(store: JobStore) -> None:
    claim = claimed(store)
    asked = store.request_cancel(claim.job_id)
    assert asked.state is JobState.RUNNING
    assert asked.cancel_requested
    assert store.report(claim) is True
    assert store.finish(claim, state=JobState.CANCELLED)
    assert store.get(claim.job_id).state is JobState.CANCELLED
    assert store.report(claim) is None


def give_back_by_drain(store: JobStore, claim: Claim) -> None:
    store.release(claim, counted=False)


def give_back_by_loss(store: JobStore, _claim: Claim) -> None:
    store.expire(only_lease(store))


@pytest.mark.parametrize("give_back", [give_back_by_drain, give_back_by_loss])
def test_a_job_whose_cancellation_was_asked_for_is_not_queued_again(store: JobStore, give_back: Callable[[JobStore, Claim], None]) -> None:
    claim = claimed(store)
    store.request_cancel(claim.job_id)
    give_back(store, claim)
    assert store.get(claim.job_id).state is JobState.CANCELLED


def test_a_finished_job_cannot_be_cancelled(store: JobStore) -> None:
    claim = claimed(store)
    store.finish(claim, state=JobState.FAILED, error=OUT_OF_MEMORY)
    with pytest.raises(Conflict, match="which has failed"):
        store.request_cancel(claim.job_id)
    assert store.get(claim.job_id).error == OUT_OF_MEMORY


@pytest.mark.parametrize("wrong", [
    {"state": JobState.SUCCEEDED},
    {"state": JobState.FAILED},
    {"state": JobState.CANCELLED, "error": OUT_OF_MEMORY},
    {"state": JobState.FAILED, "error": OUT_OF_MEMORY | {"code": "bad_luck"}},
    {"state": JobState.FAILED, "error": {"code": "internal"}},
])
def test_finish_takes_only_what_it_can_mean(store: JobStore, wrong: dict[str, Any]) -> None:
    claim = claimed(store)
    with pytest.raises(ValueError, match=r"Expected .* Received: "):
        store.finish(claim, **wrong)
    assert store.get(claim.job_id).state is JobState.RUNNING


def test_a_job_that_makes_no_model_succeeds_by_finishing(store: JobStore) -> None:
    claim = claimed(store, store.create({}, kind="examine")[0].id)
    assert store.finish(claim, state=JobState.SUCCEEDED, result={"artifacts": []})
    job = store.get(claim.job_id)
    assert (job.state, job.model, job.result) == (JobState.SUCCEEDED, None, {"artifacts": []})


def test_the_jobs_that_need_a_data_set_are_those_that_have_not_ended(store: JobStore) -> None:
    ours, theirs = {"dataset": "ds_1"}, {"dataset": "ds_11"}
    queued, running, ended = (store.create(ours)[0].id for _ in range(3))
    store.create(theirs)
    claimed(store, running)
    store.finish(claimed(store, ended), state=JobState.CANCELLED)
    assert store.using("ds_1") == [queued, running]
    assert store.using("ds_") == []


def test_a_drained_attempt_is_not_counted(store: JobStore) -> None:
    claim = claimed(store)
    for fence in range(1, 3 * MAX_LOSSES):
        assert (claim.fence, claim.attempt) == (fence, 1)
        assert store.release(claim, counted=False, now=NOON)
        assert store.due(now=NOON) == [claim.job_id]
        claim = claimed(store, claim.job_id, now=NOON)


def test_a_delay_is_kept(store: JobStore) -> None:
    claim = claimed(store)
    store.release(claim, counted=False, delay_seconds=60, now=NOON)
    assert store.due(now=NOON + timedelta(seconds=59)) == []
    assert store.claim(claim.job_id, OWNER, now=NOON + timedelta(seconds=59)) is None
    assert store.waiting() == 1
    assert store.claim(claim.job_id, OWNER, now=NOON + timedelta(seconds=60)) is not None


def lose(store: JobStore, claim: Claim, *, by: str) -> JobState:
    if by == "reaper":
        state = store.expire(only_lease(store), now=NOON)
        assert state is not None
        return state
    assert store.release(claim, counted=True, reason="signal 11", now=NOON)
    return store.get(claim.job_id).state


@pytest.mark.parametrize("by", ["reaper", "worker"])
def test_three_lost_attempts_without_progress_end_the_job(store: JobStore, by: str) -> None:
    claim = claimed(store)
    assert lose(store, claim, by=by) is JobState.QUEUED
    claim = claimed(store, claim.job_id, now=NOON)  # the first loss is tried again at once
    assert lose(store, claim, by=by) is JobState.QUEUED
    assert store.claim(claim.job_id, OWNER, now=NOON + timedelta(seconds=4.9)) is None
    claim = claimed(store, claim.job_id, now=NOON + timedelta(seconds=5))
    assert claim.attempt == 3
    assert lose(store, claim, by=by) is JobState.FAILED
    job = store.get(claim.job_id)
    assert job.error is not None
    assert job.error["code"] == "worker_lost"
    assert "3 attempts" in job.error["message"]
    assert ("signal 11" in job.error["message"]) is (by == "worker")
    assert states(store, job.id)[-1] == ("running", "failed", by)


@pytest.mark.parametrize(("said", "counts"), [
    (lambda n: Progress("checkpoint", step=100 * n), True),
    (lambda _: Progress("checkpoint", step=100), False),
    (lambda n: Progress("phase", phase=("preparing", "examining", "features", "training", "testing")[n]), True),
    (lambda _: Progress("phase", phase="preparing"), False),
    (lambda n: Progress("epoch", epoch=n), False),
])
def test_only_getting_further_starts_the_count_anew(store: JobStore, said: Callable[[int], Progress], counts: bool) -> None:
    claim = claimed(store)
    store.report(claim, events=[said(0)])
    for attempt in range(1, 5):
        if lose(store, claim, by="reaper") is JobState.FAILED:
            break
        claim = claimed(store, claim.job_id)
        store.report(claim, events=[said(attempt)])
    assert store.get(claim.job_id).state is (JobState.RUNNING if counts else JobState.FAILED)


def test_a_renewed_lease_is_not_taken_back(store: JobStore) -> None:
    claim = claimed(store)
    stale = only_lease(store)
    store.report(claim)
    assert store.expire(stale) is None
    assert store.report(claim) is False
    assert store.expire(only_lease(store)) is JobState.QUEUED
    assert store.leases() == []


@pytest.mark.parametrize("write", [
    lambda store, claim: store.report(claim, progress=Progress("step", step=9), events=[Progress("checkpoint", step=9)]) is not None,
    lambda store, claim: store.finish(claim, state=JobState.CANCELLED),
    lambda store, claim: store.finish(claim, state=JobState.FAILED, error=OUT_OF_MEMORY),
    lambda store, claim: store.release(claim, counted=True),
])
def test_a_stale_fence_writes_nothing(store: JobStore, write: Callable[[JobStore, Claim], bool]) -> None:
    stale = claimed(store, store.create({}, kind="examine")[0].id)
    store.expire(only_lease(store))
    live = claimed(store, stale.job_id)
    before = store.get(stale.job_id), store.events(stale.job_id), store.leases()
    assert not write(store, stale)
    assert (store.get(stale.job_id), store.events(stale.job_id), store.leases()) == before
    assert write(store, live)


class Rivals(RuleBasedStateMachine):
    """Workers that come too late, a reaper, a user: whoever acts whenever, a job has one owner and one end."""

    claims = Bundle("claims")
    leases = Bundle("leases")

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.engine = engine

    @initialize()
    def start(self) -> None:
        with writing(self.engine) as connection:
            for table in (aliases, models, events, jobs):
                connection.execute(table.delete())
        self.store, self.registry = JobStore(self.engine), Registry(self.engine)
        self.fence: dict[str, int] = {}
        self.ends: dict[str, Job] = {}
        self.create()

    def create(self) -> None:
        """The job that the rivals fight over next; claims of the ones before stay in their hands."""
        self.job_id = self.store.create({})[0].id
        self.fence[self.job_id] = 0

    def owns(self, claim: Claim) -> bool:
        job = self.store.get(claim.job_id)
        return job.state is JobState.RUNNING and job.fence == claim.fence

    def acts(self, claim: Claim, act: Callable[[], bool]) -> None:
        """Act with a claim: it succeeds exactly if the claim is the live one, and a stale one writes nothing."""
        owner, before, events = self.owns(claim), self.store.get(claim.job_id), self.store.events(claim.job_id)
        assert act() is owner
        if not owner:
            assert (self.store.get(claim.job_id), self.store.events(claim.job_id)) == (before, events)

    @rule(target=claims, hand_over=st.booleans())
    def claim(self, hand_over: bool) -> Any:
        job = self.store.get(self.job_id)
        if hand_over and job.state is JobState.RUNNING:
            self.store.expire(self.store.leases()[0])
            job = self.store.get(self.job_id)
        claim = self.store.claim(job.id, OWNER, now=LATER)
        assert (claim is not None) is (job.state is JobState.QUEUED)
        if job.state.is_terminal:
            self.create()
        if claim is None:
            return Claim(job.id, fence=job.fence + 1, attempt=1, kind="train", config={})  # a claim that was never given
        assert claim.fence > self.fence[job.id]
        self.fence[job.id] = claim.fence
        return claim

    @rule(claim=claims, kind=st.sampled_from(["epoch", "checkpoint"]), step=st.integers(0, 3))
    def report(self, claim: Claim, kind: Any, step: int) -> None:
        self.acts(claim, lambda: self.store.report(claim, events=[Progress(kind, step=step)]) is not None)

    @rule(claim=claims, counted=st.booleans())
    def release(self, claim: Claim, counted: bool) -> None:
        self.acts(claim, lambda: self.store.release(claim, counted=counted))

    @rule(claim=claims)
    def fail(self, claim: Claim) -> None:
        self.acts(claim, lambda: self.store.finish(claim, state=JobState.FAILED, error=OUT_OF_MEMORY))

    @rule(claim=claims)
    def publish(self, claim: Claim) -> None:
        self.acts(claim, lambda: self.registry.publish(
            claim, digest="ab", labels=["cat", "dog"], metrics={}, alias="champion", promote="auto",
        ) is not None)

    @rule()
    def cancel(self) -> None:
        before = self.store.get(self.job_id)
        if before.state in (JobState.SUCCEEDED, JobState.FAILED):
            with pytest.raises(Conflict):
                self.store.request_cancel(before.id)
        else:
            after = self.store.request_cancel(before.id)
            assert after.state is (JobState.RUNNING if before.state is JobState.RUNNING else JobState.CANCELLED)

    @rule(target=leases)
    def look(self) -> Any:
        leases = self.store.leases()
        return leases[0] if leases else Lease(self.job_id, 0, 0, OWNER)

    @rule(lease=consumes(leases))
    def expire(self, lease: Lease) -> None:
        live = lease in self.store.leases()
        state = self.store.expire(lease)
        assert (state is not None) is live
        assert state in (None, self.store.get(lease.job_id).state)

    @invariant()
    def a_job_has_one_end(self) -> None:
        for job in map(self.store.get, self.fence):
            assert job == self.ends.get(job.id, job)
            assert job.fence == self.fence[job.id]
            assert (job.state is JobState.SUCCEEDED) is (job.model is not None)
            if job.state.is_terminal:
                self.ends[job.id] = job
            path = states(self.store, job.id)
            assert [new for _, new, _ in path[:-1]] == [old for old, _, _ in path[1:]]
            assert path[-1][1] == job.state
            assert sum(new == "running" for _, new, _ in path) == job.fence
        published = [model.job_id for model in self.registry.list()]
        assert len(published) == len(set(published))


def test_rivals(engine: Engine) -> None:
    if engine.dialect.name == "sqlite":
        hooks.listen(engine, "connect", lambda raw, _: raw.execute("PRAGMA synchronous = OFF"))  # quick; no power fails here
    effort = settings(
        max_examples=15 if engine.dialect.name == "sqlite" else 10, stateful_step_count=40, deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        phases=[Phase.reuse, Phase.generate],  # shrinking takes minutes, and 40 steps can be read
    )
    # It takes a function as well, says its docstring.
    run_state_machine_as_test(partial(Rivals, engine), settings=effort)  # type: ignore[arg-type]
