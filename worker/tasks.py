"""register: the one task of the worker."""

import logging
from typing import TYPE_CHECKING, Any

from celery import Celery

from catdog.broker import TASK
from catdog.database import create_engine
from catdog.jobs import JobStore
from catdog.registry import Registry
from catdog.settings import Settings
from worker.supervisor import Supervisor

if TYPE_CHECKING:
    from worker.app import Flags

log = logging.getLogger("catdog.worker")


def register(app: Celery, settings: Settings, flags: "Flags") -> None:
    """Give `app` the task "look at job X". A message that says anything else is dropped."""

    @app.task(name=TASK)  # type: ignore[untyped-decorator]
    def look_at(job_id: Any = None, **unknown: Any) -> None:
        if not isinstance(job_id, str) or unknown:
            log.warning("event=message_dropped reason=malformed")
            return
        # The engine is made here, in the pool child: a database connection does not survive a fork.
        engine = create_engine(settings.database)
        flags.busy = True
        try:
            Supervisor(settings, JobStore(engine), Registry(engine), draining=lambda: flags.draining).look_at(job_id)
        finally:
            flags.busy = False
            engine.dispose()
