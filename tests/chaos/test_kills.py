"""What may die while a job runs, dies. Every time: the job succeeds, one model row, no process left, no epoch lost."""

import signal
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from tests.living import FAST_JOB, LiveStack, until


@pytest.fixture(scope="module")
def dataset(stack: LiveStack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return stack.drawn(tmp_path_factory.mktemp("chaos") / "pictures")


def kill_the_run(stack: LiveStack) -> list[psutil.Process]:
    victim = stack.run_process()
    victim.kill()
    return [victim]


def kill_the_whole_worker(stack: LiveStack) -> list[psutil.Process]:
    worker = stack.part("worker")
    run_process = stack.run_process()
    victims = [worker, *worker.children(recursive=True)]
    for victim in victims:
        if victim != run_process:  # the kernel ends the run, because its parent is dead
            victim.kill()
    return victims


def kill_redis_and_lose_its_data(stack: LiveStack) -> list[psutil.Process]:
    server = stack.part("redis")
    server.kill()
    server.wait(timeout=30)
    until(lambda: stack.part("redis").pid != server.pid and stack.redis_answers(), "redis to come back")
    with stack.redis() as client:
        client.flushall()
    return [server]


def terminate_the_worker(stack: LiveStack) -> list[psutil.Process]:
    worker = stack.part("worker")
    victims = [worker, *worker.children(recursive=True)]
    worker.send_signal(signal.SIGTERM)
    return victims


@pytest.mark.parametrize("strike", [kill_the_run, kill_the_whole_worker, kill_redis_and_lose_its_data, terminate_the_worker])
def test_the_job_succeeds_all_the_same(
    stack: LiveStack, dataset: dict[str, Any], strike: Callable[[LiveStack], list[psutil.Process]],
) -> None:
    before = {model["version"] for model in stack.client.get("/v1/models").json()["items"]}
    first = stack.post_job(dataset, **FAST_JOB)
    jobs = [first]
    if strike is kill_redis_and_lose_its_data:
        jobs.append(stack.post_job(dataset, **FAST_JOB | {"epochs": 1}))  # its message is in the queue that will be lost
    stack.wait_for_training(first)
    victims = strike(stack)
    ended = [stack.wait_for_end(job) for job in jobs]
    assert all(job["state"] == "succeeded" for job in ended), [job["error"] for job in ended]

    after = [model for model in stack.client.get("/v1/models").json()["items"] if model["version"] not in before]
    assert sorted(model["job_id"] for model in after) == sorted(jobs), "one model row each"
    _, alive = psutil.wait_procs(victims, timeout=30)
    assert not alive

    epochs = stack.epochs(first)
    assert sorted(set(epochs)) == list(range(1, FAST_JOB["epochs"] + 1))
    assert len(epochs) <= FAST_JOB["epochs"] + 1, f"more than one epoch was done again: {epochs}"
    if strike is terminate_the_worker:
        assert stack.job(first)["attempt"] == 1, "a drain is not counted as an attempt"
