"""A bulk prediction that is killed with -9 has, when it has been started again, one row for each picture."""

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from catdog.database import create_engine
from catdog.jobs import JobStore
from catdog.kinds import PredictConfig
from catdog.registry import Registry
from catdog.settings import Settings
from tests.living import LiveStack
from tests.pictures import lay_out, picture
from tests.serving import make_package, publish_digest

PICTURES = 1000
# A run that kills itself some moment after it has said that so many rows are on disk.
DRIVER = """
import os, signal, sys, threading
from pathlib import Path
from catdog.predictions import predict
from catdog.registry import Registry
from catdog.settings import Settings
folder, fence, at, delay = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
for progress in predict(folder, Settings.load(secrets=False), fence=fence):
    if at and progress.kind == "step" and progress.step >= at:
        threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
        at = 0
"""


def attempt(run: Path, settings: Settings, *, fence: int, at: int = 0, delay: float = 0) -> int:
    command = [sys.executable, "-c", DRIVER, str(run), str(fence), str(at), str(delay)]
    return subprocess.run(command, env=settings.run_environment(), cwd=Path(__file__).parent.parent.parent, check=False).returncode


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    made = Settings.load(data_dir=tmp_path_factory.mktemp("bulk") / "data")
    made.make_folders()
    return made


@pytest.fixture(scope="module")
def photos(settings: Settings) -> Path:
    return lay_out(settings.root / "photos", {f"{number:04d}.png": picture(number) for number in range(PICTURES)})


@pytest.mark.parametrize("kill", range(3))
def test_a_thousand_pictures_killed_once_have_a_thousand_rows(settings: Settings, photos: Path, tmp_path: Path, kill: int) -> None:
    chance = random.Random(kill)
    run, at, delay = tmp_path / "run", chance.randint(1, PICTURES // 2), chance.uniform(0, 0.02)
    digest = make_package(tmp_path)
    PredictConfig(dataset=str(photos), digest=digest, package=tmp_path / digest).write(run)
    assert attempt(run, settings, fence=1, at=at, delay=delay) == -signal.SIGKILL, "it was killed"
    left = (run / "rows" / "0000001.ndjson").read_bytes()
    assert at <= left.count(b"\n") < PICTURES and not (run / "artifacts").exists()
    if kill == 0:  # what a power cut leaves behind the last line that was synced
        (run / "rows" / "0000001.ndjson").write_bytes(left + b'{"name": "torn')
    if kill == 1:
        (run / "rows" / "0000001.ndjson").write_bytes(left + bytes(4096))
    assert attempt(run, settings, fence=2) == 0
    rows = (run / "artifacts" / "predictions.ndjson").read_bytes()
    assert rows.startswith(left[: left.rindex(b"\n") + 1]), "nothing was done again"
    assert [json.loads(row)["name"] for row in rows.splitlines()] == sorted(path.name for path in photos.iterdir())
    assert (run / "artifacts" / "predictions.csv").read_text().count("\n") == PICTURES + 1
    assert [path.name for path in (run / "rows").iterdir()] == ["0000002.ndjson"]


def test_a_job_whose_run_is_killed_answers_every_picture_of_its_data_set_once(stack: LiveStack, tmp_path: Path) -> None:
    dataset = stack.drawn(tmp_path / "photos", count=60)
    version = published(stack)
    wish, key = {"dataset": dataset["id"], "model": version}, {"Idempotency-Key": "bulk"}
    response = stack.client.post("/v1/predict/dataset", json=wish, headers=key)
    assert response.status_code == 202, response.text
    job_id = response.json()["id"]
    stack.run_process().kill()
    job = stack.wait_for_end(job_id)
    assert job["state"] == "succeeded" and job["attempt"] == 2 and job["phase"] == "predicting", job
    assert job["result"]["images"] == dataset["images"] and job["result"]["refused"] == 0 and job["result"]["model"] == version
    assert [link.rpartition("/")[2] for link in job["links"]["artifacts"]] == ["predictions.ndjson", "predictions.csv"]
    rows, table = (stack.client.get(link).text for link in job["links"]["artifacts"])
    names = [json.loads(row)["name"] for row in rows.splitlines()]
    assert len(names) == len(set(names)) == dataset["images"] and len(table.splitlines()) == dataset["images"] + 1
    again = stack.client.post("/v1/predict/dataset", json=wish, headers=key)
    assert again.status_code == 200 and again.json()["id"] == job_id
    for successor in ("clone", "resume"):
        assert stack.client.post(f"/v1/jobs/{job_id}/{successor}").status_code == 409


def published(stack: LiveStack) -> int:
    """A version of the stack that no alias means."""
    engine = create_engine(stack.settings.database)
    try:
        return publish_digest(JobStore(engine), Registry(engine), make_package(stack.settings.models), promote="never").version
    finally:
        engine.dispose()
