"""Supervisor: claims a job, runs it in a process of its own, and writes down what came of it.

    claim -> `python -m catdog run FOLDER` -> lines of Progress -> job record -> publish | failed | cancelled | queued again

The run is a fresh interpreter in its own process group; no CATDOG_* variable of database, Redis or token reaches it. The supervisor
is the only one that writes a running job's record, always with the fence of its claim; when the record says that the
fence is not the current one, it kills its run and publishes nothing.
"""

import contextlib
import errno
import logging
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from catdog import process
from catdog.comparison import Comparison
from catdog.config import TrainConfig
from catdog.errors import FAILURES, BadConfig, CatdogError, NotFound, Unavailable
from catdog.files import sync_folder
from catdog.jobs import Claim, JobState, JobStore
from catdog.kinds import config_of
from catdog.process import Identity
from catdog.progress import MAX_LINE_BYTES, Progress
from catdog.registry import Model, Registry
from catdog.settings import Settings

log = logging.getLogger("catdog.worker")

POLL_SECONDS = 1.0
"""How often a quiet run is looked at: for the drain, the grace, the time limit."""
SELF_FENCE = 2 / 3
"""Share of the lease after which a supervisor that cannot renew kills its own run, before anybody else may start it."""
EXIT_SECONDS = 5.0
"""How long a run may take from closing its pipe to its end: an interpreter with torch needs about one."""
DEVICE_ERROR = 76
"""Exit status of a run whose GPU gave up: worth a fresh process."""

Reason = Literal["cancel", "drain", "time_limit", "lost"]


@dataclass(slots=True)
class Run:
    """The child process and what it has said so far."""

    child: subprocess.Popen[bytes]
    pipe: int
    buffer: bytes = b""
    ended: bool = False
    done: Progress | None = None
    failed: Progress | None = None
    stopping: Reason | None = None
    kill_at: float = field(default=float("inf"))

    def read(self, seconds: float) -> list[Progress]:
        """Wait up to `seconds` for lines and return them; a line that is no Progress is dropped."""
        ready, _, _ = select.select([self.pipe], [], [], seconds)
        if not ready:
            return []
        chunk = os.read(self.pipe, MAX_LINE_BYTES)
        self.ended = not chunk
        *lines, self.buffer = (self.buffer + chunk).split(b"\n")
        self.buffer = self.buffer[-MAX_LINE_BYTES:]
        events = []
        for line in lines:
            try:
                events.append(Progress.from_json(line))
            except ValueError as error:
                log.warning("event=line_dropped reason=%r", str(error)[:200])
        for event in events:
            self.done = event if event.kind == "done" else self.done
            self.failed = event if event.kind == "failed" else self.failed
        return events

    def wait(self) -> None:
        """Let a run that has closed its pipe leave by itself, so that its exit status is its own."""
        if self.ended:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.child.wait(EXIT_SECONDS)

    def stop(self, reason: Reason, *, grace_seconds: float) -> None:
        """Ask it to leave, once; with no grace, do not ask."""
        if self.stopping is None:
            self.stopping, self.kill_at = reason, time.monotonic() + grace_seconds
            process.signal_group(self.child, signal.SIGTERM if grace_seconds else signal.SIGKILL)
        elif time.monotonic() > self.kill_at:
            process.signal_group(self.child, signal.SIGKILL)


class Supervisor:
    """Looks after one job at a time."""

    def __init__(self, settings: Settings, jobs: JobStore, registry: Registry, *, draining: Callable[[], bool]) -> None:
        self._settings = settings
        self._jobs = jobs
        self._registry = registry
        self._draining = draining

    def look_at(self, job_id: str) -> None:
        """Claim the job and see it through; a job that cannot be claimed (running, ended, unknown, not due) is left alone."""
        claim = self._jobs.claim(job_id, Identity.of(os.getpid()))
        if claim is None:
            log.info("event=message_dropped job_id=%s reason=not_claimable", job_id[:64])
            return
        log.info("event=claimed job_id=%s fence=%d attempt=%d", claim.job_id, claim.fence, claim.attempt)
        folder = self._settings.runs / claim.job_id
        try:
            config_of(claim.kind, claim.config).write(folder)
            run = self._start(claim, folder)
        except (OSError, BadConfig, NotFound, Unavailable) as error:
            self._not_started(claim, error)
            return
        try:
            self._follow(claim, run)
            run.wait()
        finally:
            status = process.stop(run.child, grace_seconds=0)
            os.close(run.pipe)
        self._conclude(claim, run, status=status, folder=folder)

    def _start(self, claim: Claim, folder: Path) -> Run:
        command = self._command(claim, folder)
        reading, writing = os.pipe()
        try:
            with (folder / "log.txt").open("ab") as log_file:
                child = process.start(
                    command, environment=self._settings.run_environment(), niceness=self._settings.run_niceness,
                    stdout=writing, stderr=log_file,
                )
        except OSError:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        return Run(child, reading)

    def _not_started(self, claim: Claim, error: OSError | CatdogError) -> None:
        message = f"Expected a run that starts. Received: {error}."
        if isinstance(error, Unavailable):  # the database is busy or away
            self._jobs.release(claim, counted=False, reason=message)
        elif isinstance(error, CatdogError):
            self._fail(claim, "config", message)
        elif error.errno in (errno.ENOSPC, errno.EDQUOT):
            self._fail(claim, "disk_full", message)
        else:  # too many processes, a folder that is away: it may pass
            self._jobs.release(claim, counted=True, reason=message)

    def _command(self, claim: Claim, folder: Path) -> list[str]:
        command = [sys.executable, "-m", "catdog", "run", str(folder), "--kind", claim.kind, "--fence", str(claim.fence)]
        if claim.resumed_from is not None:
            command += ["--resume-from", str(self._settings.runs / claim.resumed_from)]
        for role, model in self._rivals(claim).items():
            command += [f"--{role}", str(self._settings.models / model.digest)]
        return command

    def _rivals(self, claim: Claim) -> dict[str, Model]:
        """The published models that a run compares; a training that shall be promoted brings the challenger itself."""
        if claim.kind == "compare":
            return {role: self._registry.get(claim.config[role]) for role in ("challenger", "champion")}
        if claim.kind != "train":
            return {}
        publish = TrainConfig.parse(claim.config).publish
        champion = self._registry.champion(publish.alias) if publish.promote == "auto" else None
        return {} if champion is None else {"champion": champion}

    def _follow(self, claim: Claim, run: Run) -> None:
        """Until the run has closed its pipe: write down what it says, renew the lease, pass on what it must know."""
        began = renewed = time.monotonic()
        unwritten: list[Progress] = []
        while not run.ended:
            events = run.read(POLL_SECONDS)
            unwritten += [event for event in events if event.kind != "step"]
            now = time.monotonic()
            if unwritten or now - renewed >= (POLL_SECONDS if events else self._settings.heartbeat_seconds):
                try:
                    asked = self._jobs.report(claim, progress=events[-1] if events else None, events=unwritten)
                except Unavailable as error:  # the database is busy or away: keep what was said, and let the lease decide
                    log.warning("event=report_failed job_id=%s reason=%r", claim.job_id, error.message)
                else:
                    if asked is None:
                        log.warning("event=lease_lost job_id=%s fence=%d", claim.job_id, claim.fence)
                        return run.stop("lost", grace_seconds=0)
                    unwritten, renewed = [], now
                    if asked:
                        run.stop("cancel", grace_seconds=self._settings.stop_grace_seconds)
            if self._draining():
                run.stop("drain", grace_seconds=self._settings.stop_grace_seconds)
            if now - began > self._settings.time_limit_seconds:
                run.stop("time_limit", grace_seconds=self._settings.stop_grace_seconds)
            if now - renewed > SELF_FENCE * self._settings.lease_seconds:
                return run.stop("lost", grace_seconds=0)
        return None

    def _conclude(self, claim: Claim, run: Run, *, status: int, folder: Path) -> None:
        """Write down the end. Every branch is one statement that changes nothing when the fence is not ours any more."""
        match run.stopping:
            case "lost":
                return
            case "cancel":
                self._jobs.finish(claim, state=JobState.CANCELLED)
            case _ if run.done is not None:  # however it left: what it made is on disk
                self._succeed(claim, run.done, folder)
            case "drain":
                self._jobs.release(claim, counted=False)
            case "time_limit":
                self._fail(claim, "time_limit", f"Expected the run to end within {self._settings.time_limit_seconds:.0f} s.")
            case _ if run.failed is not None and status != DEVICE_ERROR:
                self._fail(claim, run.failed.code or "internal", run.failed.message or "", run.failed.remedy)
            case _:
                log.warning("event=run_died job_id=%s fence=%d status=%d", claim.job_id, claim.fence, status)
                self._jobs.release(claim, counted=True, reason=f"the run ended with status {status}")
        log.info("event=concluded job_id=%s fence=%d status=%d stopping=%s", claim.job_id, claim.fence, status, run.stopping)

    def _fail(self, claim: Claim, code: str, message: str, remedy: str | None = None) -> None:
        known = code if code in FAILURES else "internal"
        error = {"code": known, "message": message, "remedy": remedy or FAILURES[known]}
        self._jobs.finish(claim, state=JobState.FAILED, error=error)

    def _succeed(self, claim: Claim, done: Progress, folder: Path) -> None:
        result = done.result or {}
        if claim.kind == "train":
            self._publish(claim, result, folder)
        elif claim.kind == "compare":
            self._registry.compared(claim, Comparison.from_dict(result["comparison"]))
        else:
            self._jobs.finish(claim, state=JobState.SUCCEEDED, result=result)

    def _publish(self, claim: Claim, result: dict[str, Any], folder: Path) -> None:
        """Move the package among the models, then one transaction: job succeeded, model row, and the alias if the gate lets it."""
        if self._jobs.report(claim, events=[Progress("phase", phase="publishing")]) is None:
            return  # the package in the run folder is the successor's business
        package = self._settings.models / result["digest"]
        if not package.exists():
            (folder / "package").rename(package)
            sync_folder(package.parent)
        else:
            shutil.rmtree(folder / "package", ignore_errors=True)
        publish = TrainConfig.parse(claim.config).publish
        model = self._registry.publish(
            claim, digest=result["digest"], labels=result["labels"], metrics=result["metrics"],
            alias=publish.alias, promote=publish.promote, result=result,
        )
        log.info("event=published job_id=%s fence=%d model=%s", claim.job_id, claim.fence, model.version if model else "none")
