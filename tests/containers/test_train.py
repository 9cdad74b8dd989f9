"""Training and predicting in the containers, over HTTP, with the real worker image."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.containers.engine import Engine, Project
from tests.living import FAST_JOB, until

pytestmark = pytest.mark.long
HERE = Path(__file__).parent
ENVIRONMENT_OF_PYTHON = """
for process in /proc/[0-9]*; do
    if tr '\\0' ' ' < $process/cmdline | grep -q '^python '; then tr '\\0' '\\n' < $process/environ; fi
done
"""
FILES = (Path("compose.yaml"), HERE / "real.yaml")


@pytest.fixture(scope="module")
def project(
    engine: Engine, service_image: str, redis_image: str, worker_image: str, tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Project]:
    with Project(engine, tmp_path_factory.mktemp("train"), *FILES) as project:
        print(f"\ncompose.yaml with the real worker: healthy after {project.up():.0f} s")
        yield project


def test_it_trains_on_photographs_and_names_those_it_has_not_seen(project: Project, shared_data: Callable[..., Path]) -> None:
    job = project.wait_for_end(project.post_job(project.upload(shared_data("dogs_vs_cats"))), seconds=600)
    assert job["state"] == "succeeded", job
    accuracy = project.client.get(f"/v1/models/{job['model']}").json()["metrics"]["test"]["accuracy"]
    print(f"\ntest accuracy {accuracy:.4f}, from {job['started']} to {job['finished']}, {job['device']}")
    assert accuracy >= 0.98
    until(lambda: project.client.get("/health/ready").json()["models"], "the model to be served")
    photographs = sorted(shared_data("dogs_vs_cats", "test").rglob("*.jpg"))[::20]
    answers = [project.client.post("/v1/predict", files={"file": path.read_bytes()}).json()["label"] for path in photographs]
    right = sum(answer in path.name for answer, path in zip(answers, photographs, strict=True))
    print(f"{right} of {len(photographs)} photographs over HTTP")
    assert right >= 0.9 * len(photographs)


def test_a_job_goes_on_where_stop_left_it(project: Project, tmp_path: Path) -> None:
    fields = FAST_JOB | {"epochs": 60}
    job_id = project.post_job(project.drawn(tmp_path / "drawn"), **fields)
    project.wait_for_training(job_id)
    project.compose("stop")
    assert {container["State"]["Status"] for container in project.containers()} == {"exited"}
    assert project.container("worker")["State"]["ExitCode"] == 0, "it was killed"
    print(f"\nhealthy again after {project.up():.0f} s")
    job = project.wait_for_end(job_id)
    assert job["state"] == "succeeded" and job["attempt"] == 1, job
    epochs = project.epochs(job_id)
    assert sorted(set(epochs)) == list(range(1, 61)) and len(epochs) <= 61, epochs


def test_a_cuda_worker_without_a_device_says_so_and_does_not_start(engine: Engine, worker_image: str) -> None:
    options = ("--read-only", "--tmpfs", "/tmp", "--tmpfs", "/data:uid=10001,mode=2770", "-e", "CATDOG_REDIS_URL=redis://127.0.0.1")
    done = engine.inside(worker_image, "python", "-m", "worker", options=options, check=False)
    print(f"\n{done.stderr}")
    assert done.returncode == 2
    assert len([line for line in done.stderr.splitlines() if "CATDOG_CPU_FALLBACK" in line]) == 1


def test_any_uid_without_home_with_64_mb_of_shared_memory_trains_on_the_cpu_when_told(
    engine: Engine, service_image: str, redis_image: str, worker_image: str, tmp_path: Path,
) -> None:
    variables = {"RUN_AS": "12345:0", "WORKER_DEVICE": "cuda", "WORKER_CPU_FALLBACK": "1"}
    with Project(engine, tmp_path, *FILES, HERE / "bare.yaml", variables=variables) as project:
        project.up()
        environment = project.run("worker", "sh", "-c", ENVIRONMENT_OF_PYTHON)
        assert "CATDOG_DATA_DIR=" in environment and "HOME=" not in environment
        job = project.wait_for_end(project.post_job(project.drawn(tmp_path / "drawn"), **FAST_JOB | {"epochs": 2}))
        assert job["state"] == "succeeded", job
        assert job["device"]["name"] == "cpu" and "FALLBACK" in job["device"]["reason"], job["device"]
        until(lambda: project.client.get("/health/ready").json()["models"], "the model to be served")
        picture = next((tmp_path / "drawn").iterdir())
        assert project.client.post("/v1/predict", files={"file": picture.read_bytes()}).status_code == 200
