"""Attendance: which pictures of each split a training has really drawn. T04: samples never used, a loader that stands still."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, groupby

from catdog.doctor.findings import Culprit, Finding

SAME = 3
"""Times in a row that one batch is drawn when the loader stands still: twice may be a repeated step."""
LEAST, MOST = 0.5, 1.5
"""Share of a split's pictures that an epoch draws."""


class Attendance:
    """The batches of an epoch by split, as they were drawn."""

    def __init__(self) -> None:
        self._batches: defaultdict[str, list[tuple[int, ...]]] = defaultdict(list)

    def note(self, split: str, positions: Sequence[int]) -> None:
        """Note a batch, by the positions of its pictures in the split."""
        self._batches[split].append(tuple(positions))

    def close(self, declared: Mapping[str, int]) -> Iterator[Finding]:
        """End an epoch, of which `declared` says how many pictures of each split are drawn; what of it is not so."""
        drawn, self._batches = self._batches, defaultdict(list)
        for split, wanted in declared.items():
            number, different = sum(map(len, drawn[split])), len(set(chain.from_iterable(drawn[split])))
            still = [batch for batch, times in ((batch, len(list(same))) for batch, same in groupby(drawn[split])) if times >= SAME]
            if still and wanted > len(still[0]):
                yield _finding(split, f"{SAME} batches of {split} in a row were the same one.", (
                    f"the pictures at {', '.join(map(str, still[0][:8]))}", f"{different} different pictures of {wanted} in the epoch",
                ))
            elif not LEAST * wanted <= number <= MOST * wanted:
                yield _finding(split, f"An epoch draws {number} pictures of {split}, which has {wanted} for it.", (
                    f"{different} different ones", f"expected {LEAST:.0%} to {MOST:.0%} of {wanted}",
                ))


def _finding(split: str, message: str, evidence: tuple[str, ...]) -> Finding:
    return Finding(
        "T04", "error", message, Culprit(split), evidence, "Look at what orders the pictures of an epoch, and at what fetches a batch.",
    )
