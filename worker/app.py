"""create_app, main: the Celery worker, set up to carry one thing: "look at job X"."""

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
from catdog.database import create_engine, migrate
from catdog.errors import BadSettings, Unavailable
from catdog.jobs import JobStore
from catdog.settings import Settings
from worker import tasks

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
        flags.busy = False

    @signals.worker_ready.connect(weak=False)  # type: ignore[untyped-decorator]
    def ready(**_: Any) -> None:
        if "torch" in sys.modules:
            raise BadSettings("Expected a worker without torch. Received: torch in sys.modules.")
        threading.Thread(target=_watch, args=(settings, flags), name="watchdog", daemon=True).start()
        log.info("event=worker_ready pid=%d queue=%s", os.getpid(), QUEUE)

    return app


def _watch(settings: Settings, flags: Flags) -> None:
    """End this process (70) when jobs wait and nothing is claimed for too long: the launcher starts a fresh one.

    Consumers of Redis have gone deaf after a reconnect while looking alive (celery#10205); a live process proves nothing.
    """
    jobs = JobStore(create_engine(settings.database))
    idle_since = time.monotonic()
    while not flags.draining:
        try:
            waiting = bool(jobs.due())
        except Unavailable:  # nothing can be claimed without the record either
            waiting = False
        if flags.busy or not waiting:
            idle_since = time.monotonic()
        if time.monotonic() - idle_since > settings.idle_limit_seconds:
            log.error("event=worker_deaf idle_seconds=%.0f", settings.idle_limit_seconds)
            os._exit(70)
        time.sleep(settings.sweep_seconds)


def main() -> None:
    """`python -m worker`: work until SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        settings = Settings.load()
        if settings.redis_url is None:
            raise BadSettings("Expected CATDOG_REDIS_URL. Received: nothing.", remedy="Set it, or use `catdog up`, which starts a Redis.")
        settings.make_folders()
        engine = create_engine(settings.database)
        migrate(engine)
        engine.dispose()
    except BadSettings as error:
        log.error("event=refused_to_start reason=%r remedy=%r", error.message, error.remedy)
        raise SystemExit(2) from error
    create_app(settings).worker_main([
        "worker", "--queues", QUEUE, "--loglevel", "INFO", "--without-gossip", "--without-mingle", "--without-heartbeat",
    ])
