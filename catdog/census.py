"""take, Census: every planned picture looked at once: decoded, hashed, compared with the others, given its split, or refused with a reason.

    Plan -> decode -> exact copies -> near copies -> splits -> Census -> the data set's records (staging.py) and its report (report.py)
"""

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from catdog import duplicates, images, splits
from catdog.datasets import Record
from catdog.errors import BadDataset, BadImage, TooLarge, UnsupportedType
from catdog.labels import listed, natural
from catdog.plans import Plan, Planned, Refused

MAX_UNREADABLE = 0.2
"""The share of a label's pictures that may be unreadable; above it something is wrong with the set and not with a few files."""

Report = Callable[[int, int], None] | None
"""Called with (done, total) pictures."""


@dataclass(frozen=True, slots=True)
class Census:
    """What came out. Where there are problems, the pictures make no data set."""

    records: list[Record]
    """By split, and by content within it: the same pictures under other names train the same network."""
    refused: list[Refused]
    groups: list[list[Record]]
    """Pictures that show the same and stand in the same split."""
    conflicts: list[list[Record]]
    """Pictures that show the same and have different labels, also those that are left out."""
    uniform: list[Record]
    """Pictures too uniform to tell whether they show the same as others."""
    problems: list[BadDataset]


def take(
    plan: Plan, read: Callable[[str], bytes], modified: Callable[[str], int | None], *,
    seed: int, progress: Report = None, store: Callable[[str, bytes], None] | None = None, scratch: Path | None = None,
) -> Census:
    """Look at every planned picture. `read` gives a picture's bytes by its name, `modified` its unix seconds.

    `store` is given the sha256 and the bytes of each readable picture. Memory grows by a record a picture; the thumbnails that are
    compared lie in a file in `scratch` that nobody sees.
    """
    problems: list[BadDataset] = []
    with tempfile.TemporaryFile(dir=scratch) as thumbnails:
        seen, unreadable = [], []
        for done, planned in enumerate(plan.pictures):
            if progress is not None:
                progress(done, len(plan.pictures))
            try:
                data = read(planned.name)
                picture = images.read(data)
            except (BadImage, UnsupportedType, TooLarge) as error:
                unreadable.append((planned, error.message))
                continue
            seen.append(_record(planned, data, picture, modified(planned.name)))
            thumbnails.write(duplicates.thumbnail(picture.image).tobytes())
            if store is not None:
                store(seen[-1].sha256, data)
        if progress is not None:
            progress(len(plan.pictures), len(plan.pictures))
        problems += _too_many(seen, unreadable)
        kept, copies, twice = _without_copies(seen)
        problems += twice
        # Mapped, not read: for 100,000 pictures they are 100 MB.
        # One page more than pictures: an empty file cannot be mapped.
        thumbnails.write(bytes(duplicates.SIDE**2))
        thumbnails.flush()
        pages = np.memmap(thumbnails, np.uint8, "r", shape=(len(seen) + 1, duplicates.SIDE, duplicates.SIDE))
        found = duplicates.groups(pages[kept])
    records = [seen[position] for position in kept]
    pictures = [(record.sha256, record.label, record.split or None) for record in records]
    chosen = splits.assign(pictures, seed=seed, groups=found.members)
    try:
        splits.check(pictures, chosen, groups=found.members)
    except BadDataset as error:
        problems.append(error)
    return _census(records, chosen, found, refused=[*plan.refused, *_unreadable(unreadable), *copies], problems=problems)


def _record(planned: Planned, data: bytes, picture: images.Picture, modified: int | None) -> Record:
    width, height = picture.image.size
    return Record(
        hashlib.sha256(data).hexdigest(), planned.name, planned.label, planned.split or "", width, height, len(data), picture.format,
        picture.mode, picture.orientation, modified, group="",
    )


def _unreadable(unreadable: Sequence[tuple[Planned, str]]) -> list[Refused]:
    return [Refused(planned.name, "unreadable", reason) for planned, reason in unreadable]


def _too_many(seen: Sequence[Record], unreadable: Sequence[tuple[Planned, str]]) -> list[BadDataset]:
    good = Counter(record.label for record in seen)
    bad = Counter(planned.label for planned, _ in unreadable)
    problems = []
    for label, number in sorted(bad.items()):
        total = number + good[label]
        if number > MAX_UNREADABLE * total:
            names = [planned.name for planned, _ in unreadable if planned.label == label]
            first = next(reason for planned, reason in unreadable if planned.label == label)
            problems.append(BadDataset(
                f"Expected at most {MAX_UNREADABLE:.0%} unreadable pictures of {label}. "
                f"Received: {number} of {total} ({listed(names)}). The first: {first}",
                offenders=names,
            ))
    return problems


def _without_copies(seen: Sequence[Record]) -> tuple[list[int], list[Refused], list[BadDataset]]:
    """The positions of each content once, in order. A copy in val or test wins over one in train, so that nothing leaks."""
    rank = {"test": 0, "val": 1, "train": 2, "": 2}
    first: dict[str, int] = {}
    copies: list[Refused] = []
    problems: list[BadDataset] = []
    for position in sorted(range(len(seen)), key=lambda position: (rank[seen[position].split], natural(seen[position].name))):
        record = seen[position]
        original = seen[first.setdefault(record.sha256, position)]
        if original.label != record.label:
            problems.append(BadDataset(
                f"Expected one label for one picture. Received: {original.name} ({original.label}) and "
                f"{record.name} ({record.label}) with the same content.",
                offenders=[original.name, record.name], remedy="Remove the one that is labelled wrongly.",
            ))
        if original is not record:
            copies.append(Refused(record.name, "duplicate", f"the same file as {original.name}"))
    return sorted(first.values()), copies, problems


def _census(
    records: Sequence[Record], chosen: Sequence[str | None], found: duplicates.Groups, *,
    refused: list[Refused], problems: list[BadDataset],
) -> Census:
    """Write splits and groups into the records, and take those out that would leak."""
    placed = [replace(record, split=split or "") for record, split in zip(records, chosen, strict=True)]
    groups, alike = [], []
    for members in found.members:
        group = min(placed[position].sha256 for position in members)
        for position in members:
            placed[position] = replace(placed[position], group=group)
        groups.append([placed[position] for position in members if placed[position].split])
        alike.append([placed[position] for position in members])
        there = groups[-1][0]
        refused += [
            Refused(placed[position].name, "leak", f"shows the same as {there.name}, which is in {there.split}")
            for position in members if not placed[position].split
        ]
    order = {split: turn for turn, split in enumerate(splits.SPLITS)}
    return Census(
        records=sorted((record for record in placed if record.split), key=lambda record: (order[record.split], record.sha256)),
        refused=refused, groups=[group for group in groups if len(group) > 1],
        conflicts=[group for group in alike if len({record.label for record in group}) > 1],
        uniform=[placed[position] for position in found.uniform if placed[position].split], problems=problems,
    )
