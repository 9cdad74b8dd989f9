"""Contender, CONTENDERS, running, load, raw_loop: servers that answer photographs, the client that asks, and the loop without either."""

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from catdog.database import create_engine, migrate
from catdog.files import sha256_of
from catdog.inference import Predictor
from catdog.jobs import JobStore
from catdog.machine import Machine
from catdog.registry import Registry
from catdog.settings import Settings
from tests.serving import publish_digest

SCRIPT = Path(__file__).parent / "photos.lua"
PATIENCE_SECONDS = 120.0
"""Until a server must answer its first photograph."""
WARM_REQUESTS = 20


@dataclass(frozen=True)
class Contender:
    """A server: the module that is started with its port, and the path that answers."""

    name: str
    module: str
    path: str = "/predict"

    @property
    def ours(self) -> bool:
        return self.module == "service"

    @property
    def needs(self) -> str:
        """The package without which it cannot run."""
        return {"litserve": "litserve", "bentoml": "bentoml"}.get(self.module.partition("_")[0], "fastapi")


CONTENDERS = (
    Contender("catdog", "service", "/v1/predict"),
    Contender("LitServe + ONNX Runtime", "litserve_onnx"),
    Contender("BentoML + ONNX Runtime", "bentoml_onnx"),
    Contender("LitServe, eager PyTorch", "litserve_torch"),
    Contender("FastAPI, eager PyTorch", "fastapi_torch"),
)


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    url: str
    process: psutil.Process

    def memory(self) -> int:
        """Bytes of the whole process tree; of what several share each has its part (PSS)."""
        total = 0
        for process in (self.process, *self.process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += process.memory_full_info().pss
        return total


@contextmanager
def running(contender: Contender, *, network: Path, data: Path, workers: int, log: Path, photo: Path) -> Iterator[Running]:
    """Start a server and wait until it has answered a photograph; end everything it started."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = dict(os.environ)
    if contender.ours:
        environment |= {"CATDOG_DATA_DIR": str(data), "CATDOG_PORT": str(port), "CATDOG_DEVICE": "cpu"}
        command = [sys.executable, "-m", "service"]
        environment.pop("PYTHONPATH", None)
    else:
        environment |= {"BENCH_NETWORK": str(network), "BENCH_WORKERS": str(workers), "BENTOML_DO_NOT_TRACK": "True"}
        command = [sys.executable, "-m", f"tests.bench.servers.{contender.module}", str(port)]
    with log.open("ab") as output:
        server = psutil.Popen(command, env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}{contender.path}"
        _wait(server, url, photo, log)
        _keep_together(server)
        yield Running(url, psutil.Process(server.pid))
    finally:
        family = [server, *server.children(recursive=True)] if server.is_running() else []
        server.terminate()
        _, alive = psutil.wait_procs(family, timeout=10)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        server.wait()


def _wait(server: psutil.Popen, url: str, photo: Path, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    answered = 0
    while answered < WARM_REQUESTS:
        if time.monotonic() > deadline or server.poll() is not None:
            raise SystemExit(f"{url} answers nothing:\n{log.read_text()[-2000:]}")
        try:
            answered += httpx.post(url, files={"file": photo.read_bytes()}, timeout=30, trust_env=False).status_code == 200
        except httpx.HTTPError:
            time.sleep(0.2)


def _keep_together(server: psutil.Popen) -> None:
    """Give what a server started in sessions of its own the priority that the bench's session has: it counts as one with the others."""
    with contextlib.suppress(OSError):
        niceness = Path("/proc/self/autogroup").read_text().split()[-1]
        for process in server.children(recursive=True):
            Path(f"/proc/{process.pid}/autogroup").write_text(niceness)


def load(url: str, photos: Sequence[Path], *, connections: int, seconds: float) -> dict[str, Any]:
    """Post photographs in turn for so long; requests/s, latencies, and what was not answered with 200."""
    command = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds:.0f}s", "--timeout", "60s"]
    done = subprocess.run([*command, "--script", SCRIPT, url, "--", *photos], capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result | {"requests_per_second": result["requests"] / result["seconds"]}


def raw_loop(package: Path, photos: Sequence[Path], *, seconds: float) -> float:
    """Photographs a second that decoding and ONNX Runtime do on all cores: a thread a core, nothing else."""
    predictor = Predictor.load(package, device="cpu", shared=True)
    data = [photo.read_bytes() for photo in photos]
    counts = [0] * Machine.look().cpus
    end = time.perf_counter() + seconds

    def work(number: int) -> None:
        for one in itertools.cycle(data[number:] + data[:number]):
            if time.perf_counter() > end:
                return
            predictor.logits(predictor.preprocess.pixels_of(one)[None], alone=False)
            counts[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(counts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


def publish(package: Path, data: Path) -> None:
    """Make a data folder whose service answers with that package."""
    settings = Settings.load(data_dir=data)
    settings.make_folders()
    digest = sha256_of(package / "package.json")
    (settings.models / digest).symlink_to(package.resolve(), target_is_directory=True)
    engine = create_engine(settings.database)
    migrate(engine)
    publish_digest(JobStore(engine), Registry(engine), digest)
    engine.dispose()
