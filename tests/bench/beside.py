"""How soon the service is ready and what it takes; how long its health takes under load, and a prediction while a job trains beside it.

    python -m tests.bench.beside ready --data FOLDER [--work FOLDER] [--repeats 5]
    python -m tests.bench.beside health --data FOLDER [--work FOLDER] [--seconds 60]
    python -m tests.bench.beside training --data FOLDER [--seconds 60]

`ready` starts the service with the default network, again and again, and asks until it is ready. `health` asks whether it is
ready, again and again, while 16 connections ask for predictions. `training` starts the whole of catdog (`catdog up`), trains the default
network, asks it through one connection, then lets a job train all of that network and asks again.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import httpx
import psutil
from rich.console import Console

from tests.bench.answering import CONTENDERS, load, running
from tests.bench.serving import Bench
from tests.living import LiveStack

READY_SECONDS, READY_MB, TIMES, HEALTH_MS = 1.5, 250, 2.0, 100
"""Our marks: until ready, resident memory of the service's process, p95 beside training against idle, and the slowest answer of
/health/ready under load (issue: serving)."""
LONG_JOB = {"trainable": "all", "epochs": 1000, "patience": 1000, "doctor": "off", "publish": {"promote": "never"}}


def ready(bench: Bench, console: Console, *, repeats: int) -> None:
    """Start the service again and again."""
    bench.package("lite0")
    data = bench.work / "lite0" / "served"
    environment = dict(os.environ) | {"CATDOG_DATA_DIR": str(data), "CATDOG_PORT": "0", "CATDOG_DEVICE": "cpu"}
    announcement = data / "service.json"
    seconds, memory, decoders = [], [], []
    for _ in range(repeats):
        announcement.unlink(missing_ok=True)
        began = time.perf_counter()
        with (bench.work / "servers.log").open("ab") as log:
            service = psutil.Popen([sys.executable, "-m", "service"], env=environment, stdout=log, stderr=log)
        try:
            while not _is_ready(announcement):
                time.sleep(0.005)
            seconds.append(time.perf_counter() - began)
            memory.append(service.memory_info().rss / 2**20)
            decoders.append(sum(child.memory_full_info().pss for child in service.children()) / 2**20)
            has_torch = "libtorch" in Path(f"/proc/{service.pid}/maps").read_text()
        finally:
            service.terminate()
            service.wait()
    console.print(
        f"ready after {median(seconds):.2f} s, {min(seconds):.2f} to {max(seconds):.2f} (the mark is {READY_SECONDS}); "
        f"{max(memory):.0f} MB resident (the mark is {READY_MB}), its decoders {max(decoders):.0f} MB beside it; "
        f"torch is {'loaded' if has_torch else 'not loaded'}", highlight=False,
    )


def _is_ready(announcement: Path) -> bool:
    try:
        address = httpx.Response(200, content=announcement.read_bytes()).json()["address"]
        return httpx.get(f"{address}/health/ready", trust_env=False).status_code == 200
    except (OSError, ValueError, httpx.HTTPError):
        return False


def health(bench: Bench, console: Console, *, seconds: float) -> None:
    """Ask for predictions through 16 connections, and all the while whether the service is ready."""
    package, photos = bench.package("lite0"), bench.photos("web")
    ours = CONTENDERS[0]
    where = {"network": package, "data": bench.work / "lite0" / "served", "log": bench.work / "servers.log", "photo": photos[0]}
    milliseconds = []
    with running(ours, workers=1, **where) as server, ThreadPoolExecutor(1) as clients:
        loading = clients.submit(load, server.url, photos, connections=16, seconds=seconds)
        with httpx.Client(base_url=server.url.removesuffix(ours.path), trust_env=False) as client:
            while not loading.done():
                began = time.perf_counter()
                client.get("/health/ready").raise_for_status()
                milliseconds.append(1000 * (time.perf_counter() - began))
                time.sleep(0.05)
    console.print(
        f"{len(milliseconds)} times /health/ready beside {loading.result()['requests_per_second']:.1f} predictions/s: "
        f"{median(milliseconds):.1f} ms, {max(milliseconds):.1f} at the slowest (the mark is {HEALTH_MS})", highlight=False,
    )


def training(data: Path, photos: Sequence[Path], console: Console, *, seconds: float) -> None:
    """One client, first alone with the service, then beside a job."""
    with tempfile.TemporaryDirectory() as scratch, LiveStack(Path(scratch)) as stack:
        dataset = stack.upload(data)
        first = stack.wait_for_end(stack.post_job(dataset))
        assert first["state"] == "succeeded", first
        url = f"{stack.address}/v1/predict"
        load(url, photos, connections=1, seconds=5)
        idle = load(url, photos, connections=1, seconds=seconds)
        job = stack.post_job(dataset, **LONG_JOB)
        stack.wait_for_training(job)
        busy = load(url, photos, connections=1, seconds=seconds)
        assert stack.job(job)["state"] == "running"
        stack.client.post(f"/v1/jobs/{job}/cancel")
        policy = stack.client.get("/v1/system").json()["beside_training"]
    for title, result in (("idle", idle), ("beside a job", busy)):
        console.print(
            f"{title}: p50 {result['p50_ms']:.1f} ms, p95 {result['p95_ms']:.1f} ms, p99 {result['p99_ms']:.1f} ms, "
            f"{result['requests_per_second']:.1f}/s, {result['not_200']} not 200", highlight=False,
        )
    console.print(f"p95 {busy['p95_ms'] / idle['p95_ms']:.2f} times idle (the mark is {TIMES}); policy: {policy}", highlight=False)


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("ready", "health", "training"))
    parser.add_argument("--data", type=Path, required=True, help="a folder of photographs, labelled as `catdog data import` reads it")
    parser.add_argument("--work", type=Path, default=Path(".venv/serving"))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args(words)
    bench, console = Bench(asked.work, asked.data, seconds=asked.seconds, workers=[1]), Console()
    if asked.what == "ready":
        ready(bench, console, repeats=asked.repeats)
    elif asked.what == "health":
        health(bench, console, seconds=asked.seconds)
    else:
        training(asked.data, bench.photos("web"), console, seconds=asked.seconds)


if __name__ == "__main__":
    main()
