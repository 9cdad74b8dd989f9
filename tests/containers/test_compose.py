"""compose.yaml, run: healthy only when ready, confined, and refusing what is wrong in one line."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.engine import Engine, Project

HERE = Path(__file__).parent
COMPOSE = Path("compose.yaml")
SERVICES = ("redis", "service", "worker")


@pytest.fixture(scope="module")
def project(
    engine: Engine, service_image: str, redis_image: str, small_worker_image: str, tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Project]:
    """The whole of compose.yaml; the worker has all but a real torch, which a worker itself never imports."""
    with Project(engine, tmp_path_factory.mktemp("compose"), COMPOSE) as project:
        print(f"\ncompose.yaml: healthy after {project.up():.0f} s")
        yield project


@pytest.fixture(scope="module", params=["10001:0", "12345:0"])
def confined(request: pytest.FixtureRequest, project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """As it comes, and as any other uid of group 0, without HOME and with 64 MB of shared memory."""
    if request.param == "10001:0":
        yield project
        return
    folder = tmp_path_factory.mktemp("arbitrary")
    with Project(project.engine, folder, COMPOSE, HERE / "bare.yaml", variables={"RUN_AS": request.param}) as other:
        other.up()
        yield other


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_can_do_nothing_but_its_work(confined: Project, service: str) -> None:
    container = confined.container(service)
    host = container["HostConfig"]
    assert host["ReadonlyRootfs"] and host["Init"] and host["PidsLimit"] == 512 and host["Memory"] > 0
    for process in confined.run(service, "sh", "-c", "ls -d /proc/[0-9]*").split():
        status = confined.run(service, "sh", "-c", f"cat {process}/status 2>/dev/null || true")
        if "State" not in status:
            continue  # it has ended
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert "0" not in fields["Uid"].split(), fields["Name"]
        assert {int(fields[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}, fields["Name"]
        assert fields["NoNewPrivs"].strip() == "1", fields["Name"]
    assert "Read-only file system" in confined.run(service, "sh", "-c", "touch /x /app/x /opt/x 2>&1 || true")


def test_it_works_as_any_uid_of_group_0(confined: Project, tmp_path: Path) -> None:
    dataset = confined.drawn(tmp_path / "drawn")
    assert dataset["state"] == "ready", dataset
    ready = confined.client.get("/health/ready").json()
    assert ready["queue"] == "up" and not ready["broken"], ready


def test_only_the_service_is_published_and_only_here(project: Project) -> None:
    for service in ("redis", "worker"):
        assert not [binding for binding in project.container(service)["NetworkSettings"]["Ports"].values() if binding]
    assert project.address("service", 8000).startswith("http://127.0.0.1:")
    assert project.client.get("/v1/jobs").status_code == 200
    assert project.client.get("/v1/jobs", headers={"Authorization": "Bearer another"}).status_code == 401
    redis, = project.container("redis")["NetworkSettings"]["Networks"]
    assert project.engine.inspect(redis)[0]["Internal"]


def test_redis_keeps_what_it_was_told_and_evicts_nothing(project: Project) -> None:
    for name, value in (("appendonly", "yes"), ("maxmemory-policy", "noeviction")):
        assert project.run("redis", "redis-cli", "config", "get", name).split() == [name, value]


def test_a_health_check_says_no_before_it_is_ready(project: Project) -> None:
    """Asked in a container beside the running one, where nothing serves and no worker works."""
    for service in ("service", "worker"):
        done = project.compose("run", "--rm", "-T", "--no-deps", service, "python", "-m", f"{service}.check", check=False)
        assert done.returncode == 1, done.stdout + done.stderr


def refusal(engine: Engine, image: str, *options: str, program: str = "service") -> str:
    command = ("timeout", "60", "python", "-m", program)
    done = engine.inside(image, *command, options=["--read-only", "--tmpfs", "/tmp", *options], check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stdout + done.stderr
    line, = (line for line in done.stderr.splitlines() if "Expected" in line)
    return line


def test_what_is_missing_or_malformed_is_refused_by_name(engine: Engine, service_image: str, small_worker_image: str) -> None:
    assert "CATDOG_TOKEN_FILE" in refusal(engine, service_image, "--tmpfs", "/data:uid=10001,mode=2770")
    assert "CATDOG_PORT" in refusal(engine, service_image, "-e", "CATDOG_PORT=http", "-e", "CATDOG_HOST=127.0.0.1")
    data = ("--tmpfs", "/data:uid=10001,mode=2770")
    assert "CATDOG_REDIS_URL" in refusal(engine, small_worker_image, *data, program="worker")
    urls = ("-e", "CATDOG_REDIS_URL=redis://redis", "-e", "CATDOG_DATABASE_URL=mysql://x")
    assert "CATDOG_DATABASE_URL" in refusal(engine, small_worker_image, *data, *urls, program="worker")


@pytest.mark.parametrize(("mode", "remedy"), [(0o2777, "chmod o-w /data"), (0o755, "chown 10001:0 /data")], ids=["everybody", "another"])
def test_a_folder_of_everybody_or_another_is_refused(engine: Engine, service_image: str, mode: int, remedy: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(mode)
    line = refusal(engine, service_image, "--volume", f"{folder}:/data", "-e", "CATDOG_HOST=127.0.0.1")
    assert "Received: /data (owner" in line and remedy in line


def test_a_gpu_where_there_is_none_is_the_engines_own_message(engine: Engine, service_image: str) -> None:
    """The one that the README explains."""
    done = engine.docker("run", "--rm", "--gpus", "1", service_image, "true", check=False)
    if done.returncode == 0:
        pytest.skip("this machine has a GPU and its container toolkit")
    assert 'could not select device driver' in done.stderr


def test_every_file_loads_and_the_cuda_variant_replaces_both(project: Project, tmp_path: Path) -> None:
    with Project(project.engine, tmp_path, COMPOSE, Path("docker/compose.cuda.yaml")) as cuda:
        assert sorted(line for line in cuda.compose("config", "--services").stdout.split()) == sorted(SERVICES)
        images = re.findall(r"^ +image: (\S+)$", cuda.compose("config").stdout, re.MULTILINE)
        assert sorted(images) == ["catdog-redis", "catdog-service:cuda", "catdog-worker:cuda"]
