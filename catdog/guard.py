"""Guard: the test split stays shut until the phase `testing`.

A test split that was looked at while a network was made is a second validation split, and its number a promise nobody can keep. So it
is no convention here: every batch of a run comes through a Guard, and the Guard knows which phase the run is in.
"""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from catdog.doctor.training.attendance import Attendance
from catdog.errors import TestSplitTouched
from catdog.loaders import Split
from catdog.progress import PHASES

_OPENS = PHASES.index("testing")


class Guard:
    """Stands between a run and its batches. Without a batch there is no metric, so both are kept back."""

    def __init__(self) -> None:
        self._phase = PHASES[0]
        self.attendance = Attendance()

    def enter(self, phase: str) -> None:
        """Note that the run is now in that phase, one of PHASES."""
        self._phase = phase

    def admit(self, split: str) -> None:
        """Let pictures of a split be looked at.

        Raises:
            TestSplitTouched: it is the test split, and the phase `testing` has not begun.
        """
        if split == "test" and PHASES.index(self._phase) < _OPENS:
            raise TestSplitTouched(f"Expected no batch of the test split before the phase testing. Received: one in {self._phase}.")

    def watch(self, name: str, split: Split) -> Split:
        """The same split, each batch of which asks `admit` first and is noted: whenever it is drawn, by whomever."""

        def fetch(positions: Sequence[int], epoch: int) -> Tensor:
            self.admit(name)
            self.attendance.note(name, positions)
            return split.fetch(positions, epoch)

        return replace(split, fetch=fetch)
