"""Caller, LiveStack, Finished, command_line, until: the real thing, for tests.

A Caller asks a service over HTTP. LiveStack is `catdog up` with its redis-server, worker and service, on a free loopback port.
"""

import contextlib
import json
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil
import redis

from catdog import process, sources
from catdog.settings import Settings

PATIENCE_SECONDS = 240.0
FAST_JOB: dict[str, Any] = {
    "model": "squeezenet1_1", "weights": "none", "image_size": 32, "epochs": 20, "batch_size": 8, "quantise": "never",
    "target_precision": 0,
}
"""A job of about twenty seconds: a small network from random weights on small pictures, which answers whatever it learns."""


def until(condition: Callable[[], Any], what: str, *, seconds: float = PATIENCE_SECONDS) -> Any:
    """Ask until the answer is true, and return it."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.1)
    return answer


class Caller:
    """What a user does over HTTP."""

    client: httpx.Client

    def upload(self, folder: Path, **query: Any) -> dict[str, Any]:
        """Zip a folder, upload it, and wait until it is a data set."""
        archive = BytesIO()
        with zipfile.ZipFile(archive, "w") as packed:
            for path in sorted(p for p in folder.rglob("*") if p.is_file()):
                packed.write(path, path.relative_to(folder))
        response = self.client.post("/v1/datasets", content=archive.getvalue(), headers={"Content-Type": "application/zip"}, params=query)
        assert response.status_code == 202, response.text
        dataset_id = response.json()["id"]
        return dict(until(lambda: self._settled(dataset_id), "the import"))

    def _settled(self, dataset_id: str) -> dict[str, Any] | None:
        answer: dict[str, Any] = self.client.get(f"/v1/datasets/{dataset_id}", params={"wait": 5}).json()
        return None if answer["state"] == "importing" else answer

    def drawn(self, folder: Path, *, count: int = 40, size: int = 64) -> dict[str, Any]:
        """Draw pictures and upload them."""
        sources.draw(folder, count=count, size=size, seed=1)
        return self.upload(folder)

    def post_job(self, dataset: dict[str, Any], **fields: Any) -> str:
        """Start a job and return its id."""
        response = self.client.post("/v1/jobs", json={"dataset": dataset["id"], **fields})
        assert response.status_code == 202, response.text
        return str(response.json()["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        """The job as it is now."""
        answer: dict[str, Any] = self.client.get(f"/v1/jobs/{job_id}").json()
        return answer

    def wait_for_training(self, job_id: str) -> dict[str, Any]:
        """Wait until the job has a finished epoch behind it and more before it."""
        def training() -> dict[str, Any] | None:
            job = self.job(job_id)
            assert job["state"] in ("queued", "running"), job
            return job if job["phase"] == "training" and (job["progress"] or {}).get("epoch", 0) >= 2 else None

        return dict(until(training, "training to be under way"))

    def wait_for_end(self, job_id: str, *, seconds: float = PATIENCE_SECONDS) -> dict[str, Any]:
        """Wait until the job is succeeded, failed or cancelled."""
        def ended() -> dict[str, Any] | None:
            job = self.job(job_id)
            return job if job["state"] in ("succeeded", "failed", "cancelled") else None

        return dict(until(ended, "the job to end", seconds=seconds))

    def epochs(self, job_id: str) -> list[int]:
        """The number of every epoch that the job's events speak of, in order; one that was done again stands twice."""
        lines = self.client.get(f"/v1/jobs/{job_id}/events").text.splitlines()
        events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
        return [event["epoch"] for event in events if event.get("kind") == "epoch"]


class LiveStack(Caller):
    """Use as a context manager; everything it started is gone afterwards, which it checks."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.settings = Settings.load(data_dir=folder / "data", port=0, **settings)
        self.settings.make_folders()
        self._log = folder / "up.log"
        self.client = httpx.Client()

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self.up = process.start([sys.executable, "-m", "catdog", "up"], environment=self.settings.environment(), stdout=log, stderr=log)
        try:
            until(self._ready, "the stack to come up", seconds=90)
        except BaseException:
            sys.stderr.write(self._log.read_text())
            process.stop(self.up, grace_seconds=60)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        family = psutil.Process(self.up.pid).children(recursive=True)
        if error is not None:
            for path in (self._log, *sorted((self.settings.root / "logs").iterdir())):
                sys.stderr.write(f"--- {path.name}\n{path.read_text(errors='replace')[-4000:]}\n")
        self.client.close()
        process.stop(self.up, grace_seconds=90)
        _, alive = psutil.wait_procs(family, timeout=10)
        assert not alive, f"left running: {[p.cmdline() for p in alive]}"

    def _ready(self) -> bool:
        assert self.up.poll() is None, self._log.read_text()
        try:
            self.address = json.loads((self.settings.root / "service.json").read_text())["address"]
            self.client.close()
            self.client = httpx.Client(base_url=self.address, headers=self.settings.authorization, timeout=60, trust_env=False)
            return self.client.get("/health/ready").status_code == 200
        except (OSError, ValueError, httpx.HTTPError):
            return False

    def part(self, name: str) -> psutil.Process:
        """The main process of redis, worker or service."""
        marks = {"redis": "redis-server", "worker": "worker", "service": "service"}

        def wanted(command: list[str]) -> bool:
            return any(marks[name] in word for word in (command[:1] if name == "redis" else command[2:]))

        return self._child(wanted, f"the process of {name}", recursive=False)

    def run_process(self) -> psutil.Process:
        """The process of the job under way: `python -m catdog run`."""
        return self._child(lambda command: command[1:4] == ["-m", "catdog", "run"], "the process of a run", recursive=True)

    def _child(self, wanted: Callable[[list[str]], bool], what: str, *, recursive: bool) -> psutil.Process:
        def find() -> psutil.Process | None:
            # Processes may end while they are looked at.
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                for child in psutil.Process(self.up.pid).children(recursive=recursive):
                    if wanted(child.cmdline()):
                        return child
            return None

        found = until(find, what)
        assert isinstance(found, psutil.Process)
        return found

    def redis(self) -> redis.Redis:
        """A client of the stack's own Redis."""
        url = self.part("worker").environ()["CATDOG_REDIS_URL"]
        return redis.Redis(unix_socket_path=url.removeprefix("redis+socket://"))

    def redis_answers(self) -> bool:
        """Whether it is up."""
        with contextlib.suppress(redis.RedisError), self.redis() as client:
            return bool(client.ping())
        return False


@dataclass(frozen=True)
class Finished:
    """A run that `catdog train` has finished."""

    settings: Settings
    pictures: Path
    run: Path
    printed: str


def command_line(
    *arguments: str, settings: Settings, extra: Mapping[str, str] | None = None, **options: Any,
) -> subprocess.CompletedProcess[str]:
    """Run `catdog ARGUMENTS` with these settings and extra variables."""
    environment = settings.environment() | dict(extra or {})
    return subprocess.run(
        [sys.executable, "-m", "catdog", *arguments], env=environment, capture_output=True, text=True, check=False, **options,
    )
