"""Reconciler: takes back leases that were lost and publishes again what no message speaks of. One leader at a time.

A lease is judged without comparing clocks: this thread remembers the heartbeat counter of each, and when by its own monotonic clock it last
moved. After a restart it therefore waits one full lease before it takes anything back, except from a process that is dead beyond doubt.
"""

import logging
import threading
import time
from collections.abc import Callable

from catdog.errors import CatdogError
from catdog.jobs import JobStore, Lease
from catdog.leadership import Leadership
from catdog.settings import Settings
from service.publisher import Publisher

log = logging.getLogger("catdog.service.reconciler")

PATIENT_SWEEPS = 3
"""A job that is due may wait so long for a worker before it is said that there is none."""


class Reconciler:
    """The thread, and what it remembers of the leases."""

    def __init__(
        self, settings: Settings, jobs: JobStore, publisher: Publisher, leadership: Leadership, *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._jobs = jobs
        self._publisher = publisher
        self._leadership = leadership
        self._clock = clock
        self._moved: dict[tuple[str, int], tuple[int, float]] = {}
        self._unclaimed: frozenset[str] = frozenset()
        self._unclaimed_since = 0.0
        self._closing = threading.Event()
        self._readable = True
        self._thread = threading.Thread(target=self._work, name="reconciler", daemon=True)

    def start(self) -> None:
        """Begin to sweep."""
        self._thread.start()

    def wake(self, job_id: str) -> None:
        """Say that a job was accepted: it is published at once."""
        self._publisher.publish(job_id)

    def close(self) -> None:
        """Stop, and let another service lead."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        self._leadership.release()

    def unclaimed(self) -> int:
        """How many jobs have been due for longer than PATIENT_SWEEPS while no worker had one; 0 also in a service that does not lead."""
        still = self._clock() - self._unclaimed_since
        return len(self._unclaimed) if still > PATIENT_SWEEPS * self._settings.sweep_seconds else 0

    def sweep(self) -> None:
        """Look once, if this is the leader.

        Raises:
            Unavailable: the job record does not answer.
        """
        if not self._leadership.held():
            self._moved.clear()
            self._unclaimed = frozenset()
            self._publisher.publish_if_empty([])
            return
        now = self._clock()
        leases = self._jobs.leases()
        self._moved = {(lease.job_id, lease.fence): self._last_move(lease, now) for lease in leases}
        for lease in leases:
            still = now - self._moved[lease.job_id, lease.fence][1]
            if lease.owner.is_dead():
                self._take_back(lease, "its worker is dead")
            elif still >= self._settings.lease_seconds:
                self._take_back(lease, f"its worker has not renewed its lease for {still:.0f} seconds")
        due = self._jobs.due()
        self._note_unclaimed(frozenset() if leases else frozenset(due), now)
        self._publisher.publish_if_empty(due)  # also when there are none: only so is it known whether Redis answers

    def _note_unclaimed(self, unclaimed: frozenset[str], now: float) -> None:
        if not self._unclaimed or not self._unclaimed <= unclaimed:  # none waited, or one of them was claimed, if only for a moment
            self._unclaimed_since = now
        self._unclaimed = unclaimed

    def _last_move(self, lease: Lease, now: float) -> tuple[int, float]:
        known = self._moved.get((lease.job_id, lease.fence))
        return known if known is not None and known[0] == lease.heartbeat else (lease.heartbeat, now)

    def _take_back(self, lease: Lease, reason: str) -> None:
        state = self._jobs.expire(lease, reason=reason)
        if state is not None:  # else it was renewed in the meantime
            log.warning("event=lease_taken_back job=%s fence=%d state=%s reason=%r", lease.job_id, lease.fence, state, reason)

    def _work(self) -> None:
        while not self._closing.is_set():
            try:
                self.sweep()
            except Exception as error:  # nobody would notice that this thread has died, and no lease be taken back
                if self._readable:
                    log.warning("event=sweep_failed error=%r", error, exc_info=not isinstance(error, CatdogError))
                self._readable = False
            else:
                self._readable = True
            self._closing.wait(self._settings.sweep_seconds)
