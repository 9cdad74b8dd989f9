"""Examination, examination, CannotTell: the one shape of everything that the doctor does."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from catdog.doctor.findings import Finding
from catdog.doctor.patient import Patient


class CannotTell(Exception):
    """Raised inside an examination that has no way to know; its message becomes the reason under `not_run`."""


@dataclass(frozen=True, slots=True)
class Examination:
    """One question to a patient. It may do to the patient what it likes: everything is put back behind it."""

    code: str
    """Of the catalogue: a letter for the organ (D data, M model, L loss and loop, T training, S serving) and a number."""
    name: str
    catches: str
    """What is wrong where it finds something."""
    run: Callable[[Patient], Iterable[Finding]]
    """Yields nothing for a healthy patient. May raise CannotTell; anything else it raises is the doctor's own failure."""
    needs: tuple[str, ...]
    """Fields of Patient that must not be None."""
    passes: int
    """Forward and backward passes of a batch that it makes at most: what it costs."""
    of_large: bool
    """Whether it is made of networks above LARGE parameters."""


def examination(
    code: str, name: str, *, catches: str, needs: tuple[str, ...] = (), passes: int = 0, of_large: bool = False,
) -> Callable[[Callable[[Patient], Iterable[Finding]]], Examination]:
    """Make an Examination of a function."""

    def made(run: Callable[[Patient], Iterable[Finding]]) -> Examination:
        return Examination(code, name, catches, run, needs, passes, of_large)

    return made
