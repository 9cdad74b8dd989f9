"""STOPPED, EXIT_CODES, until_signal: how a command is asked to end, and the status it ends with."""

import signal
from types import FrameType

STOPPED = 75
EXIT_CODES = {"config": 2, "weights_unavailable": 2, "doctor": 3, "device_error": 76}
"""By failure code; any other failure of a run is 1."""


def until_signal() -> list[int]:
    """A list that SIGINT and SIGTERM add their number to: empty means go on. A second signal does not interrupt the stopping."""
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    signal.signal(signal.SIGINT, note)
    signal.signal(signal.SIGTERM, note)
    return received
