"""show: everything once, over HTTP, as a user would do it. `make demo` calls it.

    photographs -> catdog up -> upload -> job -> live progress -> published model -> answers to photographs no training saw
"""

import contextlib
import json
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import zip_longest
from pathlib import Path
from subprocess import Popen
from types import FrameType
from typing import IO, Any

import httpx
import psutil
from rich.console import Console

from catdog import process, sources
from catdog.display import Bars, figures
from catdog.errors import BadDataset, CatdogError, RunFailed, Unavailable
from catdog.places import SUFFIXES
from catdog.plans import Planned, plan
from catdog.progress import Progress
from catdog.settings import Settings

KEPT_BACK = 10
"""Photographs the demo asks about at the end."""
START_SECONDS = 90.0


def show(out: Console, photographs: Path | None) -> None:
    """Run the demo. On a terminal the service then stays up until Ctrl-C; elsewhere everything is stopped at once.

    Raises:
        RunFailed: the job did not succeed.
        Unavailable: the service did not come up.
    """
    signal.signal(signal.SIGTERM, _leave)
    work = Path(tempfile.mkdtemp(prefix="catdog-demo-"))
    settings = Settings.load(port=0 if not sys.stdin.isatty() else None)
    settings.make_folders()
    try:
        folder = photographs or _obtain(out, settings, work)
        kept_back = _kept_back(folder)
        archive = _pack(folder, work / "photographs.zip", without=kept_back)
        with _log(settings) as log:
            up = process.start([sys.executable, "-m", "catdog", "up"], environment=settings.environment(), stdout=log, stderr=log)
        try:
            address = _wait_until_up(settings, up)
            with httpx.Client(base_url=address, headers=settings.authorization, timeout=120.0, trust_env=False) as client:
                job = _main_job(out, client, archive)
                _ask_about(out, client, folder, kept_back, version=job["model"])
            test = job["result"]["metrics"]["test"]
            for line in figures("test split", test):
                out.print(line, soft_wrap=True, markup=False)
            accuracy = test["accuracy"]
            if not (promotion := job["result"]["promotion"])["promoted"]:
                out.print(f"not promoted: {promotion['message']}", soft_wrap=True, markup=False)
            out.print(f"demo: test_accuracy={accuracy:.4f} train_seconds={_seconds(job):.1f} model={job['model']}", soft_wrap=True)
            if sys.stdin.isatty():
                out.print(f"the service stays up at {address} ({address}/docs); Ctrl-C stops it", soft_wrap=True)
                with contextlib.suppress(KeyboardInterrupt):
                    up.wait()
        finally:
            process.stop(up, grace_seconds=60.0)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt  # a SIGTERM stops everything as Ctrl-C does


def _log(settings: Settings) -> IO[bytes]:
    logs = settings.root / "logs"
    logs.mkdir(exist_ok=True)
    return (logs / "up.log").open("ab")


def _main_job(out: Console, client: httpx.Client, archive: Path) -> dict[str, Any]:
    """Upload and train; returns the job when it has ended well."""
    dataset = _upload(out, client, archive)
    job = _ask(client.post("/v1/jobs", json={"dataset": dataset["id"]}))
    config = job["config"]
    out.print(f"job {job['id']}: {config['model']}, {config['weights']} weights, training {config['trainable']}", soft_wrap=True)
    with Bars(out) as bars:
        for job in _following(client, job["id"]):  # noqa: B020 - the same job, later
            if job["progress"]:
                bars.show(Progress(**job["progress"]))
    if job["state"] != "succeeded":
        error = job["error"] or {"message": f"the job is {job['state']}", "remedy": ""}
        raise RunFailed(error["message"], remedy=error["remedy"])
    return job


def _ask_about(out: Console, client: httpx.Client, folder: Path, kept_back: Sequence[Planned], *, version: int) -> None:
    """Ask the model that was trained, be it the champion or, because an earlier demo's is better, not."""
    right = 0
    for picture in kept_back:
        files = {"file": ("picture", (folder / picture.name).read_bytes())}
        answer = _ask(client.post("/v1/predict", params={"model": str(version)}, files=files))
        said = answer["label"] or f"no label, {answer['reason']}"
        out.print(f"  {picture.name}: {said} ({answer['confidence']:.3f})", soft_wrap=True)
        right += answer["label"] == picture.label
    out.print(f"{right} of {len(kept_back)} right, on photographs that no training saw")


def _upload(out: Console, client: httpx.Client, archive: Path) -> dict[str, Any]:
    size = archive.stat().st_size

    def body(bars: Bars) -> Iterator[bytes]:
        sent = 0
        with archive.open("rb") as file:
            while block := file.read(2**20):
                sent += len(block)
                bars.show(Progress("step", phase="upload", step=sent, steps=size))
                yield block

    with Bars(out) as bars:
        headers = {"Content-Type": "application/zip", "Content-Length": str(size)}
        dataset = _ask(client.post("/v1/datasets", content=body(bars), headers=headers))
        while dataset["state"] == "importing":
            bars.show(Progress("phase", phase="import"))
            dataset = _ask(client.get(f"/v1/datasets/{dataset['id']}", params={"wait": 10}))
    if dataset["state"] != "ready":
        raise BadDataset(dataset["error"]["message"], offenders=dataset["error"].get("offenders", ()))
    counts = dataset["counts"]
    splits = ", ".join(f"{split} {sum(labels.values())}" for split, labels in counts.items())
    out.print(f"data set {dataset['id']}: {splits}", soft_wrap=True)
    return dataset


def _following(client: httpx.Client, job_id: str) -> Iterator[dict[str, Any]]:
    while True:
        job = _ask(client.get(f"/v1/jobs/{job_id}"))
        yield job
        if job["state"] in ("succeeded", "failed", "cancelled"):
            return
        time.sleep(0.3)


def _ask(response: httpx.Response) -> dict[str, Any]:
    answer: dict[str, Any] = response.json()
    if response.is_error:
        raise CatdogError(f"{response.request.method} {response.request.url.path}: {answer['detail']}", remedy=answer.get("remedy"))
    return answer


def _seconds(job: dict[str, Any]) -> float:
    return (datetime.fromisoformat(job["finished"]) - datetime.fromisoformat(job["started"])).total_seconds()


def _wait_until_up(settings: Settings, up: Popen[bytes]) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and up.poll() is None:
        try:
            service = json.loads((settings.root / "service.json").read_text())
            address = str(service["address"])
            # Another stack's service on the same folder is not the one this demo started.
            if psutil.Process(service["pid"]).ppid() == up.pid and httpx.get(f"{address}/health/live", trust_env=False).status_code == 200:
                return address
        except (OSError, ValueError, psutil.NoSuchProcess, httpx.HTTPError):
            pass
        time.sleep(0.1)
    raise Unavailable("Expected the service to come up. Received: nothing.", remedy=f"Read {settings.root / 'logs'}.")


def _obtain(out: Console, settings: Settings, work: Path) -> Path:
    """Photographs to train on: the workshop's public subset, or drawn pictures where there is no network."""
    try:
        with Bars(out) as bars:
            return sources.fetch_workshop(
                settings.root / "downloads", settings=settings,
                progress=lambda done, total: bars.show(Progress("step", phase="download", step=done, steps=total)),
            )
    except (OSError, httpx.HTTPError, CatdogError) as error:
        out.print(f"the public photographs cannot be downloaded here ({type(error).__name__}); drawing pictures instead", soft_wrap=True)
    with Bars(out) as bars:
        sources.draw(work / "drawn", progress=lambda done, total: bars.show(Progress("step", phase="draw", step=done, steps=total)))
    return work / "drawn"


def _names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES]


def _kept_back(folder: Path) -> list[Planned]:
    """The photographs to ask about, in turn from each label: of the test split if there is one, else at most a fifth of each label."""
    planned = plan(_names(folder)).pictures
    tested = [picture for picture in planned if picture.split == "test"]
    by_label: dict[str, list[Planned]] = {}
    for picture in tested or planned:
        by_label.setdefault(picture.label, []).append(picture)
    each = -(-KEPT_BACK // len(by_label))
    chosen = [
        pictures[:: max(1, len(pictures) // each)][: each if tested else min(each, len(pictures) // 5)] for pictures in by_label.values()
    ]
    return [picture for turn in zip_longest(*chosen) for picture in turn if picture is not None][:KEPT_BACK]


def _pack(folder: Path, archive: Path, *, without: Sequence[Planned]) -> Path:
    """Everything but the photographs kept back; those of a test split are uploaded, and no training sees them all the same."""
    left_out = {picture.name for picture in without if picture.split != "test"}
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
        for name in _names(folder):
            if name not in left_out:
                packed.write(folder / name, name)
    return archive
