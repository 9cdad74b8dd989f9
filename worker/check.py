"""main, begin, note, forget: is this host's worker at work? `python -m worker.check` exits 0 or 1 with one line, for a container's health.

    DATA_DIR/workers/<hostname>    when the worker of that host last reached the job record, by that host's own clock

The worker writes it from the moment it listens to the broker, each time the job record answers. So the answer is yes only after the
boot checks, and no when the record has been away for long. A note is judged only on the host that wrote it: clocks differ.
"""

import json
import socket
import sys
import time
from pathlib import Path

from catdog.errors import BadSettings
from catdog.files import write_atomically
from catdog.settings import Settings

SHORTEST_SECONDS = 30.0
"""A note may be at least so old: a database that is restarted is no reason to end a worker."""
SWEEPS = 3
OLD_SECONDS = 86_400.0
"""Notes of hosts that have not been heard of for so long are removed."""


def begin(settings: Settings) -> None:
    """Forget what an earlier worker of this host noted, and what others did long ago."""
    forget(settings)
    folder = _note(settings).parent
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if time.time() - path.stat().st_mtime > OLD_SECONDS:
            path.unlink(missing_ok=True)


def note(settings: Settings) -> None:
    """Write down that this host's worker is at work now."""
    with write_atomically(_note(settings)) as unfinished:
        unfinished.write_text(json.dumps({"at": time.time()}))


def forget(settings: Settings) -> None:
    """Take the note back."""
    _note(settings).unlink(missing_ok=True)


def age(settings: Settings) -> float | None:
    """Seconds since this host's worker noted that it was at work; None: it never did, or has ended."""
    try:
        return float(time.time() - json.loads(_note(settings).read_text())["at"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def main() -> int:
    """Print one line and return the exit status."""
    try:
        settings = Settings.load(secrets=False)
    except BadSettings as error:
        sys.stdout.write(f"{error.message} {error.remedy}\n")
        return 1
    seconds, limit = age(settings), max(SHORTEST_SECONDS, SWEEPS * settings.sweep_seconds)
    if seconds is None:
        sys.stdout.write(f"Expected a note of a worker at work. Received: no {_note(settings)}.\n")
        return 1
    if not 0 <= seconds <= limit:
        sys.stdout.write(f"Expected a note at most {limit:g} s old. Received: one of {seconds:.0f} s.\n")
        return 1
    sys.stdout.write(f"at work {seconds:.0f} s ago\n")
    return 0


def _note(settings: Settings) -> Path:
    return settings.root / "workers" / socket.gethostname()


if __name__ == "__main__":
    raise SystemExit(main())
