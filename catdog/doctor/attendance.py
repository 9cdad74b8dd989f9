"""Attendance: which pictures of each split a training has really drawn. T04: samples never used, a loader that stands still."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from catdog.doctor.findings import Culprit, Finding

SAME = 3
"""Times in a row that one batch is drawn when the loader stands still: twice may be a repeated step."""
LEAST, MOST = 0.5, 1.5
"""Share of a split's pictures that an epoch draws."""


class Attendance:
    """Counts every draw of an epoch by split and position."""

    def __init__(self) -> None:
        self._draws: defaultdict[str, Counter[int]] = defaultdict(Counter)
        self._last: dict[str, tuple[int, ...]] = {}
        self._same: Counter[str] = Counter()
        self._stuck: dict[str, tuple[int, ...]] = {}

    def note(self, split: str, positions: Sequence[int]) -> None:
        """Note a batch, by the positions of its pictures in the split."""
        batch = tuple(positions)
        self._draws[split].update(batch)
        self._same[split] = self._same[split] + 1 if batch == self._last.get(split) else 1
        self._last[split] = batch
        if self._same[split] == SAME:
            self._stuck.setdefault(split, batch)

    def close(self, declared: dict[str, int]) -> Iterator[Finding]:
        """End an epoch, of which `declared` says how many pictures of each split are drawn; what of it is not so."""
        draws, self._draws = self._draws, defaultdict(Counter)
        stuck, self._stuck = self._stuck, {}
        for split, wanted in declared.items():
            drawn, different = draws[split].total(), len(draws[split])
            if split in stuck and wanted > len(stuck[split]):
                yield _finding(split, f"{SAME} batches of {split} in a row were the same one.", (
                    f"the pictures at {', '.join(map(str, stuck[split][:8]))}", f"{different} different pictures of {wanted} in the epoch",
                ))
            elif not LEAST * wanted <= drawn <= MOST * wanted:
                yield _finding(split, f"An epoch draws {drawn} pictures of {split}, which has {wanted} for it.", (
                    f"{different} different ones", f"expected {LEAST:.0%} to {MOST:.0%} of {wanted}",
                ))


def _finding(split: str, message: str, evidence: tuple[str, ...]) -> Finding:
    return Finding(
        "T04", "error", message, Culprit(split), evidence, "Look at what orders the pictures of an epoch, and at what fetches a batch.",
    )
