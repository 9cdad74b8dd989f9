"""Publisher: says "look at job X" to the workers, through Celery and Redis, from a thread of its own.

A message is only a wake-up. If Redis is missing, down or slow, nobody here waits for it and nothing is lost: the reconciler finds the jobs
that are due and has them published again.
"""

import contextlib
import logging
import queue
import threading
from collections.abc import Iterable
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING

from catdog.broker import OPTIONS, QUEUE, TASK

if TYPE_CHECKING:
    from celery import Celery

log = logging.getLogger("catdog.service.publisher")

# One more try and no long wait: the next sweep is soon enough. And nothing here blocks on a pop, so answers come at once.
PATIENCE = {
    "max_retries": 1, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.2, "socket_connect_timeout": 1, "socket_timeout": 3,
}
MAX_INBOX = 1000
"""More wake-ups are dropped: they are in the job record anyway."""


class QueueState(StrEnum):
    """What is known of the queue."""

    UNSET = "unset"
    UNKNOWN = "unknown"
    UP = "up"
    DOWN = "down"


class Publisher:
    """The service's end of the queue."""

    def __init__(self, redis_url: str | None) -> None:
        self.state = QueueState.UNSET if redis_url is None else QueueState.UNKNOWN
        self._inbox: queue.Queue[str | tuple[str, ...] | None] = queue.Queue(MAX_INBOX)
        self._closing = False
        self._redis_url = redis_url
        self._thread = threading.Thread(target=self._work, name="publisher", daemon=True)

    @cached_property
    def _celery(self) -> "Celery":
        """Made when it is first needed, in the thread that publishes: importing it is a tenth of what a service takes to be ready."""
        from celery import Celery

        app = Celery("catdog", broker=self._redis_url, set_as_current=False)
        app.conf.update(OPTIONS)
        app.conf.broker_transport_options = {**OPTIONS["broker_transport_options"], **PATIENCE}
        return app

    def start(self) -> None:
        """Begin to publish."""
        if self.state is not QueueState.UNSET:
            self._thread.start()

    def close(self) -> None:
        """Stop; what is not published yet is for the reconciler of the next start."""
        self._closing = True
        self._put(None)
        if self._thread.is_alive():
            self._thread.join()
        if "_celery" in vars(self):
            self._celery.close()

    def publish(self, job_id: str) -> None:
        """Wake a worker for one job, soon."""
        self._put(job_id)

    def publish_if_empty(self, job_ids: Iterable[str]) -> None:
        """Wake workers for these jobs, unless messages wait in the queue: then their workers are only busy."""
        self._put(tuple(job_ids))

    def _put(self, item: str | tuple[str, ...] | None) -> None:
        if self.state is not QueueState.UNSET:
            with contextlib.suppress(queue.Full):
                self._inbox.put_nowait(item)

    def _work(self) -> None:
        while (item := self._inbox.get()) is not None and not self._closing:
            self._try(item)

    def _try(self, item: str | tuple[str, ...]) -> None:
        try:
            if isinstance(item, str):
                self._send(item)
            else:
                self._refill(item)
        except Exception as error:  # noqa: BLE001 - kombu lets errors of every library below it through; no message is worth this thread
            if self.state is not QueueState.DOWN:
                log.warning("event=queue_down error=%s", type(error).__name__)  # its text may hold the password
            self.state = QueueState.DOWN
        else:
            if self.state is not QueueState.UP:
                log.info("event=queue_up")
            self.state = QueueState.UP

    def _send(self, job_id: str) -> None:
        self._celery.send_task(TASK, kwargs={"job_id": job_id}, queue=QUEUE)
        log.info("event=published job=%s", job_id)

    def _refill(self, job_ids: tuple[str, ...]) -> None:
        with self._celery.connection_for_write() as connection:
            # kombu's client puts KEY_PREFIX before the name itself.
            waiting = connection.default_channel.client.llen(QUEUE)
        if waiting == 0:
            for job_id in job_ids:
                self._send(job_id)
