"""service/reconciler.py and publisher.py: lost leases and lost messages, with a real Redis; and life without one."""

import base64
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from sqlalchemy import Engine

from catdog.broker import KEY_PREFIX, QUEUE, TASK
from catdog.jobs import Claim, JobState, JobStore
from catdog.leadership import Leadership
from catdog.process import Identity
from catdog.settings import Settings
from catdog.stack import redis_server
from service.publisher import Publisher, QueueState
from service.reconciler import PATIENT_SWEEPS, Reconciler
from tests.serving import Service, claim, wait_for

pytest_plugins = ("tests.service_fixtures",)

KEY = KEY_PREFIX + QUEUE


class Broker:
    """A redis-server of its own on a UNIX socket; it may be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.url = f"redis+socket://{folder / 'redis.sock'}"
        self.client = redis.Redis(unix_socket_path=str(folder / "redis.sock"))
        self.start()

    def start(self) -> None:
        socket_path = str(self._folder / "redis.sock")
        command = [str(redis_server()), "--port", "0", "--unixsocket", socket_path, "--dir", str(self._folder), "--save", ""]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_for(self.answers, what="redis-server")

    def answers(self) -> bool:
        with contextlib.suppress(redis.RedisError):
            return bool(self.client.ping())
        return False

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def jobs(self) -> list[str]:
        """The jobs that messages speak of, oldest first."""
        messages = self.client.lrange(KEY, 0, -1)
        assert isinstance(messages, list)
        return [json.loads(message)["headers"]["kwargsrepr"].split("'")[3] for message in reversed(messages)]


@pytest.fixture
def broker() -> Iterator[Broker]:
    folder = Path(tempfile.mkdtemp(prefix="catdog-"))  # short: a socket's path may have 107 bytes
    started = Broker(folder)
    yield started
    started.client.close()
    started.kill()
    shutil.rmtree(folder)


@pytest.fixture
def publisher(broker: Broker) -> Iterator[Publisher]:
    made = Publisher(broker.url)
    made.start()
    yield made
    made.close()


@pytest.fixture
def jobs(engine: Engine) -> JobStore:
    return JobStore(engine)


class Clock:
    """A monotonic clock that the test moves."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reconciler(settings: Settings, engine: Engine, jobs: JobStore, clock: Clock) -> Iterator[Reconciler]:
    """One whose sweeps the test makes, without a queue."""
    made = Reconciler(settings, jobs, Publisher(None), Leadership(engine, "reconciler"), clock=clock)
    yield made
    made.close()


def state(jobs: JobStore, held: Claim) -> JobState:
    return jobs.get(held.job_id).state


def test_a_lease_that_is_not_renewed_is_taken_back(settings: Settings, jobs: JobStore, clock: Clock, reconciler: Reconciler) -> None:
    lost, kept = claim(jobs), claim(jobs)
    reconciler.sweep()
    clock.now += settings.lease_seconds - 1
    jobs.report(kept)
    reconciler.sweep()
    assert (state(jobs, lost), state(jobs, kept)) == (JobState.RUNNING, JobState.RUNNING)
    clock.now += 1
    reconciler.sweep()
    assert (state(jobs, lost), state(jobs, kept)) == (JobState.QUEUED, JobState.RUNNING)
    clock.now += settings.lease_seconds
    reconciler.sweep()
    assert state(jobs, kept) == JobState.QUEUED


def test_a_new_claim_has_a_lease_of_its_own(settings: Settings, jobs: JobStore, clock: Clock, reconciler: Reconciler) -> None:
    first = claim(jobs)
    reconciler.sweep()
    clock.now += settings.lease_seconds - 1
    jobs.release(first, counted=False)
    second = jobs.claim(first.job_id, Identity.of(os.getpid()))
    assert second is not None
    reconciler.sweep()
    clock.now += 2
    reconciler.sweep()
    assert state(jobs, second) == JobState.RUNNING


def test_after_a_restart_a_whole_lease_is_waited(
    settings: Settings, engine: Engine, jobs: JobStore, clock: Clock, reconciler: Reconciler,
) -> None:
    held = claim(jobs)
    reconciler.sweep()
    reconciler.close()
    clock.now += settings.lease_seconds - 1
    restarted = Reconciler(settings, jobs, Publisher(None), Leadership(engine, "reconciler"), clock=clock)
    restarted.sweep()
    clock.now += settings.lease_seconds - 1
    restarted.sweep()
    assert state(jobs, held) == JobState.RUNNING
    clock.now += 1
    restarted.sweep()
    assert state(jobs, held) == JobState.QUEUED
    restarted.close()


def test_the_lease_of_a_dead_process_is_taken_back_at_once(jobs: JobStore, reconciler: Reconciler) -> None:
    owner = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    held = claim(jobs, owner=owner.pid)
    reconciler.sweep()
    assert state(jobs, held) == JobState.RUNNING
    owner.communicate(b"\n")
    reconciler.sweep()
    assert state(jobs, held) == JobState.QUEUED
    assert "dead" in jobs.events(held.job_id)[-1].data["reason"]


def test_only_the_leader_sweeps_and_another_takes_over(
    settings: Settings, engine: Engine, jobs: JobStore, clock: Clock, reconciler: Reconciler,
) -> None:
    held = claim(jobs)
    other = Leadership(engine, "reconciler")
    assert other.held()
    reconciler.sweep()
    clock.now += 2 * settings.lease_seconds
    reconciler.sweep()
    assert state(jobs, held) == JobState.RUNNING
    other.release()
    reconciler.sweep()
    clock.now += settings.lease_seconds
    reconciler.sweep()
    assert state(jobs, held) == JobState.QUEUED


def test_that_no_worker_claims_what_is_due_is_noticed(settings: Settings, jobs: JobStore, clock: Clock, reconciler: Reconciler) -> None:
    patience = PATIENT_SWEEPS * settings.sweep_seconds
    first, second = jobs.create({})[0].id, jobs.create({})[0].id
    reconciler.sweep()
    clock.now += patience
    assert reconciler.unclaimed() == 0
    reconciler.sweep()
    clock.now += 0.001
    assert reconciler.unclaimed() == 2
    held = jobs.claim(first, Identity.of(os.getpid()))
    assert held is not None
    reconciler.sweep()
    clock.now += 2 * patience
    reconciler.sweep()
    assert reconciler.unclaimed() == 0  # there is a worker, and it is busy
    jobs.finish(held, state=JobState.FAILED, error={"code": "internal", "message": "m", "remedy": "r"})
    reconciler.sweep()
    clock.now += patience
    assert reconciler.unclaimed() == 0
    jobs.request_cancel(second)
    reconciler.sweep()
    clock.now += 2 * patience
    assert reconciler.unclaimed() == 0


def test_a_worker_whose_jobs_are_shorter_than_a_sweep_is_there(
    settings: Settings, jobs: JobStore, clock: Clock, reconciler: Reconciler,
) -> None:
    waiting = [jobs.create({})[0].id for _ in range(3)]
    for job_id in waiting[:2]:
        reconciler.sweep()
        clock.now += PATIENT_SWEEPS * settings.sweep_seconds
        assert reconciler.unclaimed() == 0
        held = jobs.claim(job_id, Identity.of(os.getpid()))
        assert held is not None
        jobs.finish(held, state=JobState.CANCELLED)


def test_a_missing_worker_is_named(service: Service) -> None:
    service.parts.jobs.create({})
    wait_for(lambda: "worker" in service.client.get("/health/ready").json()["degraded"], what="the worker to be missed")
    ready = service.client.get("/health/ready")
    assert ready.status_code == 200 and ready.json()["degraded"]["worker"] == "1 jobs wait and no worker claims them"


def test_a_dead_redis_is_seen_without_any_job(settings: Settings, broker: Broker) -> None:
    redis_url = {"redis_url": broker.url}
    leader = Service(settings.model_copy(update=redis_url))
    follower = Service(settings.model_copy(update=redis_url))
    try:
        for wanted in (QueueState.UP, QueueState.DOWN):
            if wanted is QueueState.DOWN:
                broker.kill()
            for service in (leader, follower):
                wait_for(lambda: service.parts.publisher.state is wanted, what=f"the queue to be {wanted}")  # noqa: B023 - called at once
        assert "queue" in leader.client.get("/health/ready").json()["degraded"]
    finally:
        follower.stop()
        leader.stop()


def test_a_wake_up_is_a_message_that_names_the_job_and_nothing_else(broker: Broker, publisher: Publisher) -> None:
    publisher.publish("job_1")
    wait_for(lambda: bool(broker.client.llen(KEY)), what="the message")
    message = json.loads(broker.client.lrange(KEY, 0, -1)[0])
    assert message["headers"]["task"] == TASK and message["content-type"] == "application/json"
    assert json.loads(base64.b64decode(message["body"]))[:2] == [[], {"job_id": "job_1"}]


def test_what_is_due_is_published_again_only_when_the_queue_is_empty(broker: Broker, publisher: Publisher) -> None:
    publisher.publish_if_empty(["job_1", "job_2"])
    wait_for(lambda: broker.jobs() == ["job_1", "job_2"], what="both messages")
    publisher.publish_if_empty(["job_1", "job_2"])
    publisher.publish("job_3")  # the inbox is worked off in order: when this is there, the line above is done
    wait_for(lambda: "job_3" in broker.jobs(), what="the third message")
    assert broker.jobs() == ["job_1", "job_2", "job_3"]
    broker.client.flushall()
    publisher.publish_if_empty(["job_1"])
    wait_for(lambda: broker.jobs() == ["job_1"], what="the message again")


def test_redis_may_die_and_come_back(broker: Broker, publisher: Publisher, caplog: pytest.LogCaptureFixture) -> None:
    publisher.publish("job_1")
    wait_for(lambda: publisher.state is QueueState.UP, what="the queue")
    broker.kill()
    for _ in range(3):
        publisher.publish_if_empty(["job_1"])
    wait_for(lambda: publisher.state is QueueState.DOWN, what="the loss to be seen")
    broker.start()
    publisher.publish_if_empty(["job_1"])
    wait_for(lambda: broker.jobs() == ["job_1"], what="the message again")
    wait_for(lambda: publisher.state is QueueState.UP, what="the queue")
    assert sum("queue_down" in record.getMessage() for record in caplog.records) == 1


def test_without_redis_nothing_is_tried(settings: Settings) -> None:
    publisher = Publisher(None)
    publisher.start()
    publisher.publish("job_1")
    publisher.publish_if_empty(["job_1"])
    assert publisher.state is QueueState.UNSET
    publisher.close()


def test_jobs_are_accepted_while_redis_is_down_and_published_when_it_is_up(settings: Settings, broker: Broker) -> None:
    broker.kill()
    service = Service(settings.model_copy(update={"redis_url": broker.url}))
    try:
        job_id = service.parts.jobs.create({})[0].id
        service.parts.reconciler.wake(job_id)
        wait_for(lambda: service.parts.publisher.state is QueueState.DOWN, what="the loss to be seen")
        ready = service.client.get("/health/ready")
        assert ready.status_code == 200 and "queue" in ready.json()["degraded"]
        assert any("Redis" in warning for warning in service.client.get("/v1/system").json()["warnings"])
        broker.start()
        wait_for(lambda: job_id in broker.jobs(), what="the reconciler to publish")
        broker.client.flushall()
        wait_for(lambda: job_id in broker.jobs(), what="the reconciler to publish again")
        service.parts.jobs.request_cancel(job_id)
    finally:
        service.stop()


def test_an_unreachable_redis_holds_up_no_lease(settings: Settings, engine: Engine, jobs: JobStore) -> None:
    folder = Path(tempfile.mkdtemp(prefix="catdog-"))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "silent"))
    listener.listen(16)  # takes connections and never answers
    publisher = Publisher(f"redis+socket://{folder / 'silent'}")
    publisher.start()
    quick = settings.model_copy(update={"lease_seconds": 0.2})
    reconciler = Reconciler(quick, jobs, publisher, Leadership(engine, "reconciler"))
    held, _ = claim(jobs), jobs.create({})
    reconciler.start()
    wait_for(lambda: state(jobs, held) == JobState.QUEUED, what="the lease to be taken back")
    reconciler.close()
    listener.close()
    publisher.close()
    shutil.rmtree(folder)
