"""compose.scale.yaml: three services behind nginx, two workers, PostgreSQL; and a worker on another machine's network."""

import shutil
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from tests.containers.engine import Engine, Project
from tests.living import FAST_JOB

pytestmark = pytest.mark.long
SCALE = Path("docker/compose.scale.yaml")
SMALL_JOB = {**FAST_JOB, "epochs": 3}
JOBS = 50
KILL_EVERY_SECONDS = 90.0


@pytest.fixture(scope="module")
def project(
    engine: Engine, service_image: str, redis_image: str, worker_image: str, tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Project]:
    bridge = ip_network(engine.inspect("bridge")[0]["IPAM"]["Config"][0]["Subnet"])
    address = str(next(bridge.hosts()))  # this machine's own, which containers of every network reach
    folder = tmp_path_factory.mktemp("scale")
    shared = folder / "shared"
    shared.mkdir()
    shutil.chown(shared, 10001, 0)
    shared.chmod(0o2770)
    variables = {"WORKER_IMAGE": worker_image, "PRIVATE_ADDRESS": address, "DATA_FOLDER": str(shared)}
    with Project(engine, folder, SCALE, Path(__file__).parent / "real.yaml", variables=variables, entry=("proxy", 8080)) as project:
        print(f"\ncompose.scale.yaml: healthy after {project.up():.0f} s")
        yield project


@pytest.fixture(scope="module")
def dataset(project: Project, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return project.drawn(tmp_path_factory.mktemp("drawn") / "drawn")


def test_requests_go_on_while_a_replica_is_away(project: Project, dataset: dict[str, Any]) -> None:
    replicas = project.containers("service")
    assert len(replicas) == 3
    project.engine.docker("stop", replicas[0]["Id"])
    try:
        assert [project.client.get(f"/v1/datasets/{dataset['id']}").status_code for _ in range(30)] == [200] * 30
    finally:
        project.engine.docker("start", replicas[0]["Id"])


@pytest.mark.parametrize("rest", ["", "Content-Length: 100\r\n\r\n{"], ids=["headers", "body"])
def test_who_does_not_send_on_is_let_go(project: Project, rest: str) -> None:
    port = project.container("proxy")["NetworkSettings"]["Ports"]["8080/tcp"][0]["HostPort"]
    head = "POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", int(port)), timeout=60) as connection:
        connection.sendall(f"{head}Authorization: Bearer {project.token}\r\n{rest}".encode())
        try:
            answer = connection.recv(4096)
        except ConnectionResetError:
            answer = b""
        assert answer == b"" or b" 408 " in answer.splitlines()[0], answer


def test_every_job_succeeds_once_while_workers_are_killed(project: Project, dataset: dict[str, Any]) -> None:
    done = threading.Event()
    kills = 0

    def kill() -> None:
        nonlocal kills
        while not done.wait(KILL_EVERY_SECONDS):
            victim = project.containers("worker")[kills % 2]["Id"]
            project.engine.docker("kill", victim)
            project.engine.docker("start", victim)
            kills += 1

    jobs = [project.post_job(dataset, **SMALL_JOB, seed=seed) for seed in range(JOBS)]
    killing = threading.Thread(target=kill)
    killing.start()
    try:
        ends = [project.wait_for_end(job, seconds=1800) for job in jobs]
    finally:
        done.set()
        killing.join()
    models = project.client.get("/v1/models").json()["items"]
    attempts = sum(job["attempt"] for job in ends)
    began, finished = min(job["started"] for job in ends), max(job["finished"] for job in ends)
    print(f"\n{JOBS} jobs, {kills} workers killed, {attempts} attempts, from {began} to {finished}")
    assert {job["state"] for job in ends} == {"succeeded"}, [job for job in ends if job["state"] != "succeeded"]
    assert kills >= 2
    assert Counter(model["job_id"] for model in models) == Counter(jobs)


def test_a_worker_of_another_network_needs_two_urls_and_the_folder(project: Project, dataset: dict[str, Any], tmp_path: Path) -> None:
    """As the README says it: the secrets are copied, their host is replaced, and the worker alone is started."""
    project.compose("stop", "worker")
    variables = {name: project.environment[name] for name in ("WORKER_IMAGE", "DATA_FOLDER")}
    elsewhere = Project(project.engine, tmp_path, SCALE, Path(__file__).parent / "real.yaml", variables=variables)
    with elsewhere:
        secrets = elsewhere.tree / "secrets"
        shutil.rmtree(secrets)
        shutil.copytree(project.tree / "secrets", secrets)
        replace = ["sed", "-i", f"s/@[^:]*:/@{project.environment['PRIVATE_ADDRESS']}:/"]
        subprocess.run([*replace, secrets / "catdog_database_url", secrets / "catdog_redis_url"], check=True)
        elsewhere.up("--no-deps", "--scale", "worker=1", "worker")
        worker = elsewhere.container("worker")
        here = {network for container in project.containers() for network in container["NetworkSettings"]["Networks"]}
        assert not here & set(worker["NetworkSettings"]["Networks"])
        job = project.post_job(dataset, **SMALL_JOB, seed=JOBS)
        assert project.wait_for_end(job)["state"] == "succeeded"
