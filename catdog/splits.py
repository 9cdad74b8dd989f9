"""SPLITS, assign: which pictures a network trains on, is chosen by, and is tested on. Depends on nothing but contents, labels and seed."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from catdog.errors import BadDataset

SPLITS = ("train", "val", "test")
SHARE = 0.15
"""Of each label's pictures: what val and test get where no folders say it."""
MIN_TRAIN = 2
"""Pictures of each label; one of each is enough elsewhere."""


def assign(pictures: Sequence[tuple[str, str, str | None]], *, seed: int) -> list[str]:
    """Give each picture (content hash, label, split or None) its split, in the same order.

    Splits that are given stay; None counts as train. A val or test that nobody was given to is carved out of train: of each label
    the first SHARE of its pictures in the order of sha256(seed:content), so neither file order nor names matter.

    Raises:
        BadDataset: a label is left with too few pictures in a split.
    """
    chosen = [split or "train" for _, _, split in pictures]
    carved = [split for split in ("test", "val") if split not in chosen]
    members: dict[str, list[int]] = defaultdict(list)
    for position, (_, label, _) in enumerate(pictures):
        if chosen[position] == "train":
            members[label].append(position)
    for positions in members.values():
        positions.sort(key=lambda position: hashlib.sha256(f"{seed}:{pictures[position][0]}".encode()).digest())
        share = max(1, round(len(positions) * SHARE))
        for turn, split in enumerate(carved):
            for position in positions[turn * share : (turn + 1) * share]:
                chosen[position] = split
    _check(pictures, chosen)
    return chosen


def _check(pictures: Sequence[tuple[str, str, str | None]], chosen: Sequence[str]) -> None:
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for (_, label, _), split in zip(pictures, chosen, strict=True):
        counts[label, split] += 1
    for label in sorted({label for _, label, _ in pictures}):
        few = [f"{counts[label, split]} in {split}" for split in SPLITS if counts[label, split] < (MIN_TRAIN if split == "train" else 1)]
        if few:
            total = sum(counts[label, split] for split in SPLITS)
            raise BadDataset(
                f"Expected of {label} at least {MIN_TRAIN} different pictures in train and 1 each in val and test. "
                f"Received: {', '.join(few)} (of {total}).",
                remedy=f"Add pictures of {label}; without split folders 4 are the fewest.",
            )
