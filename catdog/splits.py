"""SPLITS, assign, check: which pictures a network trains on, is chosen by, and is tested on; by contents, labels and seed, not by names."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from catdog.errors import BadDataset

SPLITS = ("train", "val", "test")
SHARE = 0.15
"""Of each label's pictures: what val and test get where no folders say it."""
MIN_PICTURES = 2
"""Of each label in each split."""


def assign(
    pictures: Sequence[tuple[str, str, str | None]], *, seed: int, groups: Sequence[Sequence[int]] = (),
) -> list[str | None]:
    """Give each picture (content hash, label, split or None) its split, in the same order; None: it must be left out.

    `groups` are positions of pictures that show the same: they never stand in two splits. Splits that are given stay, and where a group
    has members in several, those in test win over those in val, and these over train; the others are left out.
    A val or test that nobody was given to is carved out of train: of each label SHARE of its pictures, test from the front and val from
    the back of the order of sha256(seed:content), so that neither file order nor names matter and a picture that is added moves few
    others. A group goes as a whole. Where groups are larger than the share, or would be missing elsewhere, each split gets enough first.
    """
    chosen: list[str | None] = [split or "train" for _, _, split in pictures]
    for group in groups:
        highest = max((chosen[position] or "train" for position in group), key=SPLITS.index)
        for position in group:
            if chosen[position] != highest:
                chosen[position] = None
    given = {split for _, _, split in pictures}
    in_train = Counter(label for (_, label, _), split in zip(pictures, chosen, strict=True) if split == "train")
    shares = {label: max(MIN_PICTURES, round(number * SHARE)) for label, number in in_train.items()}
    wanted = [split for split in ("test", "val") if split not in given]
    for turn, split in enumerate(wanted):
        _carve(pictures, chosen, split, shares, others=len(wanted) - turn, groups=groups, seed=seed)
    return chosen


def _carve(
    pictures: Sequence[tuple[str, str, str | None]], chosen: list[str | None], split: str, shares: Mapping[str, int], *,
    others: int, groups: Sequence[Sequence[int]], seed: int,
) -> None:
    """Move each label's share from train to `split`; what stays can fill `others`: train, and what is carved after this."""
    grouped = {position for group in groups for position in group}
    units = [[position] for position in range(len(pictures)) if position not in grouped] + [list(group) for group in groups]
    by_label: dict[str, list[list[int]]] = defaultdict(list)
    for unit in units:
        if members := [position for position in unit if chosen[position] == "train"]:
            by_label[pictures[members[0]][1]].append(members)
    for label, candidates in by_label.items():
        candidates.sort(key=lambda unit: _order(seed, [pictures[position][0] for position in unit]), reverse=split == "val")
        for unit in _taken(candidates, shares[label], others):
            for position in unit:
                chosen[position] = split


def _taken(units: Sequence[list[int]], share: int, others: int) -> list[list[int]]:
    """Of these groups and single pictures so many of the first ones as make `share`; at least enough for one split, with enough left for
    `others`, where there is enough for all."""
    rest = Counter(len(unit) >= MIN_PICTURES for unit in units)
    needed = others if _filled(rest) > others else 0
    taken: dict[int, list[int]] = {}
    number = 0
    for turn, unit in enumerate((*units, *sorted(units, key=len))):
        is_wanted = number + len(unit) <= share if turn < len(units) else number < MIN_PICTURES and unit[0] not in taken
        if is_wanted and _filled(after := rest - Counter([len(unit) >= MIN_PICTURES])) >= needed:
            taken[unit[0]], rest = unit, after
            number += len(unit)
    return list(taken.values())


def _filled(units: Mapping[bool, int]) -> int:
    """How many splits they can fill: those with MIN_PICTURES one each, and the smaller ones together."""
    return units[True] + units[False] // MIN_PICTURES


def _order(seed: int, contents: Sequence[str]) -> bytes:
    return hashlib.sha256(f"{seed}:{min(contents)}".encode()).digest()


def check(
    pictures: Sequence[tuple[str, str, str | None]], chosen: Sequence[str | None], groups: Sequence[Sequence[int]] = (),
) -> None:
    """Refuse what `assign` has chosen where a label is left with too few pictures in a split.

    Raises:
        BadDataset: the first such label.
    """
    counts: dict[tuple[str, str | None], int] = defaultdict(int)
    for (_, label, _), split in zip(pictures, chosen, strict=True):
        counts[label, split] += 1
    for label in sorted({label for _, label, _ in pictures}):
        few = [f"{counts[label, split]} in {split}" for split in SPLITS if counts[label, split] < MIN_PICTURES]
        if few:
            total = sum(counts[label, split] for split in SPLITS)
            alike = [len(group) for group in groups if pictures[group[0]][1] == label]
            together = f"; {sum(alike)} of them in {len(alike)} groups that show the same and stay together" if alike else ""
            raise BadDataset(
                f"Expected of {label} at least {MIN_PICTURES} different pictures in each of {', '.join(SPLITS)}. "
                f"Received: {', '.join(few)} (of {total}{together}).",
                remedy=f"Add pictures of {label}; without split folders {MIN_PICTURES * len(SPLITS)} different ones are the fewest.",
            )
