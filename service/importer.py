"""Importer: turns accepted uploads into data sets, one at a time, in a niced child that may die without harm. One leader at a time.

Of the services that share a folder the leading one imports what any of them accepted. One that is cut off ends its child; what the
child does until then is harmless beside the next leader's (see staging.py).
The child is `python -m catdog data accept FOLDER`. It reads request.json and archive.zip there and leaves dataset.json or refused.json.
An upload whose child was killed, or whose service was, is taken up again; the third death refuses it. A child that says that this machine
could not do it now is no death: its upload is kept and tried again, after those that wait behind it.
"""

import logging
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence

from catdog import process
from catdog.errors import FAILURES
from catdog.leadership import Leadership
from catdog.settings import Settings
from service.shelf import Entry, EntryState, Shelf

log = logging.getLogger("catdog.service.importer")

COMMAND = (sys.executable, "-m", "catdog", "data", "accept")
NOT_NOW = os.EX_TEMPFAIL
"""The exit status by which the child says that this machine could not do it now: its disk is full."""
MAX_DEATHS = 3
NICENESS = 10
STOP_SECONDS = 2.0
IDLE_SECONDS = 2.0
"""How often to look without being woken, for what other services accepted, and whether to lead. And when what failed is tried again."""
_NOT_FOR_THE_CHILD = ("CATDOG_DATABASE_URL", "CATDOG_REDIS_URL", "CATDOG_TOKEN_FILE", "CATDOG_HOST")
"""Not told to the child, because it reads strangers' files. All else in this process's environment it sees, and it may read every file
that the service may: this is no sandbox. (Without the token file the host would be refused as a setting, so it goes too.)"""


class Importer:
    """A thread that lives as long as the service, because the kernel ends the child with the thread that started it."""

    def __init__(self, settings: Settings, shelf: Shelf, leadership: Leadership, *, command: Sequence[str] = COMMAND) -> None:
        self._settings = settings
        self._shelf = shelf
        self._leadership = leadership
        self._command = command
        self._deaths: Counter[str] = Counter()
        self._not_before: dict[str, float] = {}
        self._woken = threading.Event()
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._work, name="importer", daemon=True)

    def start(self) -> None:
        """Begin, if this is the leader, with what an earlier one did not finish."""
        self._thread.start()

    def wake(self) -> None:
        """Say that there is something to import."""
        self._woken.set()

    def close(self) -> None:
        """End the child, and let another service lead; the upload stays accepted and waits for it."""
        self._closing.set()
        self._woken.set()
        with self._lock:
            if self._child is not None:
                process.stop(self._child, grace_seconds=STOP_SECONDS)
        if self._thread.is_alive():
            self._thread.join()
        self._leadership.release()

    def _work(self) -> None:
        while not self._closing.is_set():
            self._woken.clear()
            try:
                idle = not self._leadership.held() or not self._import_next()
            except Exception:  # nobody would notice that this thread has died, and nothing be imported
                log.exception("event=import_not_possible")
                idle = True
            if idle:
                self._woken.wait(IDLE_SECONDS)

    def _import_next(self) -> bool:
        """False: nothing waits to be imported."""
        now = time.monotonic()
        for entry in self._shelf.importing():
            if self._not_before.get(entry.id, now) <= now:
                self._import(entry)
                return True
        for name in self._shelf.sweep():
            log.warning("event=leftover_removed name=%s", name)
        return False

    def _wait(self, child: subprocess.Popen[bytes]) -> tuple[bool, int]:
        """Until the child has ended, by itself or because this service leads no more: whether it still leads, and the exit status."""
        while True:
            try:
                status = child.wait(IDLE_SECONDS)
            except subprocess.TimeoutExpired:
                if self._leadership.held():
                    continue
                status = process.stop(child, grace_seconds=0)
            return self._leadership.held(), status

    def _import(self, entry: Entry) -> None:
        log.info("event=import_started dataset=%s", entry.id)
        environment = {name: value for name, value in self._settings.environment().items() if name not in _NOT_FOR_THE_CHILD}
        with (self._settings.root / "import.log").open("ab") as output, self._lock:
            if self._closing.is_set():
                return
            child = self._child = process.start(
                [*self._command, str(entry.folder)], environment=environment, niceness=NICENESS, stdout=output, stderr=output,
            )
        leads, status = self._wait(child)
        with self._lock:
            self._child = None
            if self._closing.is_set() or not leads:
                return
        state = self._shelf.entry(entry.id).state
        log.info("event=import_ended dataset=%s state=%s exit=%d", entry.id, state, status)
        if state is not EntryState.IMPORTING:
            return
        if status == NOT_NOW:
            self._not_before[entry.id] = time.monotonic() + IDLE_SECONDS
        else:
            self._deaths[entry.id] += 1
            if self._deaths[entry.id] >= MAX_DEATHS:
                message = f"Expected an import that ends. Received: a process that died {MAX_DEATHS} times, at last with status {status}."
                self._shelf.refuse(entry.folder, code="internal", message=message, remedy=FAILURES["internal"])
