"""create_app, main: the Celery worker, set up to carry one thing: "look at job X".

    settings -> boot checks (`catdog doctor system`, a child, since only that may import torch) -> broker -> watchdog
"""

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from typing import Any

from celery import Celery, signals

from catdog import process
from catdog.broker import OPTIONS, QUEUE
from catdog.database import BUSY_SECONDS, create_engine, migrate
from catdog.errors import BadSettings, Unavailable
from catdog.jobs import JobStore
from catdog.settings import Settings
from worker import check, tasks

log = logging.getLogger("catdog.worker")


class Flags:
    """Two bytes that the main process and its pool child share across the fork, without a lock: set in a signal handler."""

    def __init__(self) -> None:
        self._draining = multiprocessing.RawValue(ctypes.c_bool, False)
        self._busy = multiprocessing.RawValue(ctypes.c_bool, False)

    @property
    def draining(self) -> bool:
        """The worker was asked to stop: let go of the run."""
        return bool(self._draining.value)

    @draining.setter
    def draining(self, value: bool) -> None:
        self._draining.value = value

    @property
    def busy(self) -> bool:
        """The pool child is at work on a job."""
        return bool(self._busy.value)

    @busy.setter
    def busy(self, value: bool) -> None:
        self._busy.value = value


def create_app(settings: Settings) -> Celery:
    """The Celery application of one worker process."""
    flags = Flags()
    engine = create_engine(settings.database)
    stopping = threading.Event()
    watchdog = threading.Thread(target=_watch, args=(settings, JobStore(engine), flags, stopping), name="watchdog", daemon=True)
    app = Celery("catdog", broker=settings.redis_url)
    app.conf.update(OPTIONS)
    tasks.register(app, settings, flags)

    # Celery keeps its signal receivers by weak reference unless told otherwise; these live as long as the process.
    @signals.worker_shutting_down.connect(weak=False)  # type: ignore[untyped-decorator]
    def drain(**_: Any) -> None:
        flags.draining = True

    @signals.worker_process_init.connect(weak=False)  # type: ignore[untyped-decorator]
    def begin_pool_child(**_: Any) -> None:
        process.die_with_parent(os.getppid())
        # A SIGTERM to the whole group must not end the supervisor before it has let go of its run.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        engine.dispose(close=False)  # the watchdog's connections stay the parent's: two ends of one would read each other's answers
        flags.busy = False

    @signals.worker_ready.connect(weak=False)  # type: ignore[untyped-decorator]
    def ready(**_: Any) -> None:
        if "torch" in sys.modules:
            raise BadSettings("Expected a worker without torch. Received: torch in sys.modules.")
        watchdog.start()
        log.info("event=worker_ready pid=%d queue=%s", os.getpid(), QUEUE)

    @signals.worker_shutdown.connect(weak=False)  # type: ignore[untyped-decorator]
    def end(**_: Any) -> None:
        stopping.set()
        if watchdog.is_alive():
            watchdog.join(BUSY_SECONDS)
        check.forget(settings)

    return app


def _watch(settings: Settings, jobs: JobStore, flags: Flags, stopping: threading.Event) -> None:
    """Note that this worker is alive; end it (70) when jobs wait and nothing is claimed for too long: the launcher starts a fresh one.

    Consumers of Redis have gone deaf after a reconnect while looking alive (celery#10205); a live process proves nothing.
    """
    idle_since = time.monotonic()
    while not (flags.draining or stopping.is_set()):
        waiting = False
        try:
            waiting = bool(jobs.due())
            check.note(settings)
        except Unavailable as error:  # nothing can be claimed without the record either
            log.warning("event=record_unavailable reason=%r", error.message)
        except OSError as error:
            log.warning("event=not_noted reason=%r", str(error))
        if flags.busy or not waiting:
            idle_since = time.monotonic()
        if time.monotonic() - idle_since > settings.idle_limit_seconds:
            log.error("event=worker_deaf idle_seconds=%.0f", settings.idle_limit_seconds)
            os._exit(70)
        stopping.wait(settings.sweep_seconds)


def _examine_machine() -> None:
    """Print what this machine gives, and stop here if it does not do.

    Raises:
        BadSettings: the doctor found an error; its line is on standard error.
    """
    child = process.start([sys.executable, "-m", "catdog", "doctor", "system"], stdout=2, stderr=2)
    if child.wait() != 0:
        raise BadSettings("Expected a machine without errors. Received: what is printed above.", remedy="Do what each line says.")


def main() -> None:
    """`python -m worker`: work until SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        settings = Settings.load()
        if settings.redis_url is None:
            raise BadSettings("Expected CATDOG_REDIS_URL. Received: nothing.", remedy="Set it, or use `catdog up`, which starts a Redis.")
        settings.make_folders()
        check.begin(settings)
        _examine_machine()
        engine = create_engine(settings.database)
        migrate(engine)
        engine.dispose()
        app = create_app(settings)
    except BadSettings as error:
        log.error("event=refused_to_start reason=%r remedy=%r", error.message, error.remedy)
        raise SystemExit(2) from error
    app.worker_main([
        "worker", "--queues", QUEUE, "--loglevel", "INFO", "--without-gossip", "--without-mingle", "--without-heartbeat",
    ])
