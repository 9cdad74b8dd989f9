"""D03: pictures that stand in two splits, and those that have two labels; also where they were saved again, made smaller or mirrored."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from catdog import duplicates
from catdog.doctor.data.census import Entry, entries, opaque
from catdog.doctor.data.files import looked_at
from catdog.doctor.examination import Examination, examination
from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.patient import Patient
from catdog.errors import CatdogError
from catdog.images import decode

EXACT, NEAR, CONFLICTING = 0.01, 0.1, 0.005
"""Shares of a split from which on copies are an error. CIFAR-10 lives with 3.3 % of near copies, CIFAR-100 with 10 % (ciFAIR, Barz and
Denzler 2019)."""
FEWEST = {EXACT: 2, NEAR: 3, CONFLICTING: 2}
"""Pictures of a share that is an error: in a split of twenty one picture is 5 %."""
FINE = 0.5
"""Correlation of what two near copies have beyond their blurred shapes; a second picture of the same silhouette has none in common."""
DETAILED = 128
"""Pixels a side at which it is looked at, where both pictures have as many."""
CONFIRMED, CANDIDATES = 250, 5
"""Near copies whose detail is compared, and pictures with which one of them is; more are not needed for what is said."""
ORDER = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two files that show the same."""

    one: Entry
    other: Entry
    is_exact: bool


@examination("D03", "duplicates", needs=("data",), catches="pictures of val or test that are in train as well, one picture with two labels")
def copies(patient: Patient) -> Iterator[Finding]:
    """Compare all pictures with all."""
    groups = [*_known(patient), *_found(patient)]
    sizes = {name: len(split.paths) for name, split in patient.data.splits.items()}  # type: ignore[union-attr]
    for later in ORDER[1:]:
        for earlier in ORDER[: ORDER.index(later)]:
            if sizes.get(earlier) and sizes.get(later):
                yield from _leak(_confirmed(_between(groups, earlier, later)), earlier, later, sizes[later])
    yield from _conflicts(groups, sum(sizes.values()))


def _known(patient: Patient) -> Iterator[list[list[Entry]]]:
    """Groups that the import of the data set has found; of each, the parts of one content."""
    records = (patient.data.records if patient.data is not None else None) or {}
    found: dict[str, dict[str, list[Entry]]] = {}
    for entry in entries(patient):
        if (record := records.get(entry.path)) is not None:
            found.setdefault(record.group or record.sha256, {}).setdefault(record.sha256, []).append(entry)
    yield from ([*group.values()] for group in found.values() if sum(map(len, group.values())) > 1)


def _found(patient: Patient) -> Iterator[list[list[Entry]]]:
    """The same of files that are not known."""
    looks = [(entry, look) for entry, look in looked_at(patient) if not look.error and look.thumbnail is not None]
    if len(looks) < 2:
        return
    seen = [(entry, look.pixels, face) for entry, look in looks for face in (look.thumbnail, look.opaque) if face is not None]
    for members in duplicates.groups(np.stack([face for *_, face in seen])).members:
        parts: dict[str, list[Entry]] = {}
        for entry, pixels, _ in map(seen.__getitem__, members):
            if entry not in (part := parts.setdefault(pixels, [])):
                part.append(entry)
        yield [*parts.values()]


def _between(groups: Sequence[list[list[Entry]]], earlier: str, later: str) -> Iterator[list[Pair]]:
    """For each picture of the later split: what may be its copy in the earlier one; where there is an exact one, that."""
    for group in groups:
        there = [entries for part in group if (entries := [entry for entry in part if entry.split == earlier])][:CANDIDATES]
        for part in group:
            same = [entry for entry in part if entry.split == earlier]
            for entry in (entry for entry in part if entry.split == later):
                yield [Pair(same[0], entry, True)] if same else [Pair(one, entry, False) for one, *_ in there]


def _unlike(group: list[list[Entry]]) -> list[Pair]:
    """Pictures of a group that may show the same and have different labels; where there are exact copies, those."""
    exact = [Pair(part[0], entry, True) for part in group for entry in part if entry.label != part[0].label]
    near = (Pair(one, other, False) for (one, *_), (other, *_) in combinations(group, 2) if one.label != other.label)
    return exact or [*islice(near, CANDIDATES)]


def _confirmed(found: Iterable[list[Pair]]) -> list[Pair]:
    """Of each the first pair that shows the same, the exact ones before the rest."""
    some = [pairs for pairs in found if pairs]
    near = [pairs for pairs in some if not pairs[0].is_exact][:CONFIRMED]
    return [pairs[0] for pairs in some if pairs[0].is_exact] + [pair for pairs in near if (pair := next(filter(_is_fine, pairs), None))]


def _leak(pairs: Sequence[Pair], earlier: str, later: str, size: int) -> Iterator[Finding]:
    if not pairs:
        return
    exact = sum(pair.is_exact for pair in pairs)
    is_error = _is_much(exact, size, EXACT) or _is_much(len(pairs), size, NEAR)
    yield Finding(
        "D03", "error" if is_error else "warning", f"{len(pairs)} of {size} pictures of {later} stand in {earlier} as well",
        Culprit(f"{pairs[0].other.path} = {pairs[0].one.path}"),
        (
            f"{len(pairs) / size:.1%} of {later}, {exact} of them to the pixel, the others confirmed by their fine detail",
            *(f"{pair.other.path.name} = {pair.one.path.name}" for pair in pairs[:10]),
        ),
        f"Take them out of {earlier}, and split by content: what is validated on has not been trained on.",
    )


def _is_much(number: int, size: int, share: float) -> bool:
    return number >= FEWEST[share] and number >= share * size


def _is_fine(pair: Pair) -> bool:
    """The second witness of a near copy: fine detail, at a size at which one picture of a scene is not another."""
    try:
        ones, others = (_readings(entry.path.read_bytes()) for entry in (pair.one, pair.other))
    except (OSError, CatdogError):
        return False
    side = min(DETAILED, *(length for image in (ones[0], others[0]) for length in image.size))  # enlarged, a small one has no more detail
    (mine, *my_hidden), (theirs, *their_hidden) = ([_detail(image, side) for image in images] for images in (ones, others))
    pairs = [(mine, theirs)]
    if not (my_hidden and their_hidden):  # two cut-outs of one photograph are no copies to anybody who sees them
        pairs += [*((hidden, theirs) for hidden in my_hidden), *((mine, hidden) for hidden in their_hidden)]
    return any(max(_correlation(one, other), _correlation(one, other[:, ::-1])) >= FINE for one, other in pairs)


def _readings(data: bytes) -> list[Image.Image]:
    """In grey: a picture upright and over white; and, where it has a transparency, without it."""
    return [image.convert("L") for image in (decode(data), opaque(data)) if image is not None]


def _detail(image: Image.Image, side: int) -> NDArray[np.float64]:
    """(side, side) what a blur takes away."""
    grey = image.resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(grey, np.float64) - np.asarray(grey.filter(ImageFilter.GaussianBlur(3)), np.float64)


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    mine, theirs = one - one.mean(), other - other.mean()
    return float((mine * theirs).sum() / max(1e-9, float(np.sqrt((mine**2).sum() * (theirs**2).sum()))))


def _conflicts(groups: Sequence[list[list[Entry]]], size: int) -> Iterator[Finding]:
    """One picture with two labels: an error where the pixels are the same, so that a network can only be wrong."""
    pairs = _confirmed(map(_unlike, groups))
    if not pairs:
        return
    number = sum(len(part) for group in groups for part in group if len({entry.label for entry in part}) > 1)
    first = pairs[0].one, pairs[0].other
    yield Finding(
        "D03", "error" if _is_much(number, size, CONFLICTING) else "warning", "Pictures that show the same have different labels",
        Culprit(" = ".join(str(entry.path) for entry in first)),
        (f"{len(pairs)} groups of pictures, {sum(pair.is_exact for pair in pairs)} of them the same to the pixel",
         *(f"{entry.path.name}: {entry.label}" for entry in first)),
        "Correct the labels.",
    )


EXAMINATIONS: tuple[Examination, ...] = (copies,)
