"""D10: how the loop goes through its pictures: what is random and what is not, in which order they come, how many of them.

The owner's loader is asked for its DataLoader, whose sampler tells the order of an epoch without a picture being read, and whose
workers are given one and the same item, so that what they draw shows. A loader of another kind is gone through for a moment.
"""

import hashlib
import math
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from catdog.doctor.data.census import entries, spread
from catdog.doctor.data.draws import drawn, seeded, split_of
from catdog.doctor.examination import CannotTell, Examination, examination
from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.patient import ANY_ERROR, Data, DataSplit, Patient
from catdog.doctor.source import defined_at

LOOKS = 3
"""Times that an item is taken."""
ITEMS = 8
"""Items that are taken so often."""
WORKERS = 2
IN_TURN = 16
"""Times that each worker takes the same item: also flips of a coin then differ."""
BY_CHANCE = 1e-6
SORTED = 5.5
"""Deviations by which an order has fewer changes of label than a shuffled one; the chance is 2e-8."""
FEWEST = 40
"""Pictures in a row from which on an order can be judged."""
LEFT_OUT = 0.1
"""Share of train that two epochs leave out, the same both times."""
SECONDS = 0.3
"""For which a loader that is no DataLoader is gone through."""


@examination(
    "D10", "randomness, workers, order", needs=("data",),
    catches="random validation, augmentation that never changes or is the same in every worker, an order sorted by label, partial epochs",
)
def epochs(patient: Patient) -> Iterator[Finding]:
    """Take items again and again, then look at the order of two epochs."""
    data: Data = patient.data  # type: ignore[assignment]
    for name in data.splits:
        if name != "train":
            yield from _of_fixed(patient, name)
    train = data.splits.get("train")
    if train is None:
        return
    is_constant = data.augmented and _is_constant(patient, train)
    if is_constant:
        yield Finding(
            "D10", "error", "train is meant to look otherwise at every look, and never does", _culprit(train),
            (f"{ITEMS} items taken {LOOKS} times each were equal to the bit every time, also under other seeds",),
            "Look whether the random part is reached, whether its chance is 0, and whether its result is kept.",
        )
    if data.loader is None:
        if len(data.splits) == 1:
            raise CannotTell("no loader")
        return
    yield from _of_loader(patient, data, is_constant=is_constant)


def _of_fixed(patient: Patient, name: str) -> Iterator[Finding]:
    """Validation and test: the same at every look."""
    split = split_of(patient, name)
    different = []
    for draw in [drawn(patient, name)[place] for place in spread(len(drawn(patient, name)), ITEMS)]:
        try:
            again = [torch.as_tensor(split.items[draw.position][0]).detach().cpu() for _ in range(LOOKS - 1)]
        except ANY_ERROR:  # a file that cannot be read is D01's
            continue
        if any(not _same(draw.inputs, one) for one in again):
            different.append(draw.position)
    if len(different) >= 2 or (different and len(split.paths) == 1):
        yield Finding(
            "D10", "warning" if patient.intent.random_eval else "error", f"What is seen of a picture of {name} changes from look to look",
            _culprit(split), (f"{len(different)} of {ITEMS} items, taken {LOOKS} times each",),
            "Take the random transforms out: what is measured must not depend on a draw.",
        )


def _same(one: Tensor, other: Tensor) -> bool:
    """To a thousandth of the range."""
    if one.shape != other.shape:
        return False
    span = float(one.max()) - float(one.min())
    return bool((one.double() - other.double()).abs().max() <= 1e-3 * max(span, 1e-6))


def _is_constant(patient: Patient, split: DataSplit) -> bool:
    """Whether no look at train differs from another, with every generator at another state each time."""
    for draw in drawn(patient, "train")[:ITEMS]:
        for seed in range(1, LOOKS):
            with seeded(seed):
                if not torch.equal(torch.as_tensor(split.items[draw.position][0]), draw.inputs):
                    return False
    return bool(drawn(patient, "train"))


def _culprit(split: DataSplit, what: str = "") -> Culprit:
    kind = type(split.items)
    place = defined_at(getattr(kind, "__getitem__", None))
    return Culprit(what or kind.__name__, str(place) if place is not None and not place.is_library else None)


def _of_loader(patient: Patient, data: Data, *, is_constant: bool) -> Iterator[Finding]:
    train, number = data.splits["train"], len(data.splits["train"].paths)
    loader = dataloader(data, "train", 0)
    orders: list[list[int]] = []
    rows: Sequence[list[int]]
    pictures: Sequence[list[bytes]] = ()
    if loader is not None and _covers(loader, number):
        orders = [order_of(loader), order_of(loader)]
        labels = _labels(patient, data)
        rows = [[label for position in order if (label := labels[position]) is not None] for order in orders]
        yield from _of_coverage(data, loader, orders, number)
    else:
        rows, pictures = zip(*(_glimpse(data) for _ in range(2)), strict=True)
        if not rows[0]:
            yield _empty(train)
            return
    yield from _of_order(patient, data, rows, orders, loader)
    if loader is not None and data.augmented and not is_constant:
        yield from _of_workers(data, train)
    elif data.augmented and not is_constant and pictures:
        yield from _of_repetition(pictures)
    if "val" in data.splits:
        yield from _of_val(data, len(data.splits["val"].paths))


def _of_val(data: Data, number: int) -> Iterator[Finding]:
    """What is measured is measured on all of it."""
    loader = dataloader(data, "val", 0)
    if loader is None or not _covers(loader, number):
        return
    missing = number - len(set(order_of(loader)))
    if missing:
        yield Finding(
            "D10", "error" if missing > 0.5 * number else "warning", f"An epoch of val leaves out {missing} of {number} pictures",
            Culprit("drop_last" if loader.drop_last else type(loader.sampler).__name__), (), "Validate on all of them: drop_last=False.",
        )


def dataloader(data: Data, name: str, workers: int) -> DataLoader[Any] | None:
    """The DataLoader that the owner's loader goes through, if it goes through one; caught at its first batch."""
    if data.loader is None:
        return None
    caught: list[DataLoader[Any]] = []
    original = DataLoader.__iter__

    def iterate(loader: DataLoader[Any]) -> Any:
        caught.append(loader)
        return original(loader)

    given = data.loader(name, workers)
    if isinstance(given, DataLoader):
        return given
    with patch.object(DataLoader, "__iter__", iterate):
        for _ in given:
            break
    return caught[0] if caught else None


def _covers(loader: DataLoader[Any], number: int) -> bool:
    """Whether its indices are the positions of the split."""
    try:
        return loader.batch_sampler is not None and len(loader.dataset) == number  # type: ignore[arg-type]
    except TypeError:
        return False


def order_of(loader: DataLoader[Any]) -> list[int]:
    """The positions of an epoch in their order; no picture is read."""
    return [int(position) for batch in loader.batch_sampler or () for position in batch]


def _labels(patient: Patient, data: Data) -> list[int | None]:
    places = {label: place for place, label in enumerate(data.labels)}
    return [places.get(str(entry.label)) for entry in entries(patient) if entry.split == "train"]


def _glimpse(data: Data) -> tuple[list[int], list[bytes]]:
    """Of an epoch's first pictures the labels and hashes."""
    row: list[int] = []
    pictures: list[bytes] = []
    began = time.monotonic()
    for inputs, given in data.loader("train", 0) if data.loader is not None else ():
        target = torch.as_tensor(given)
        row += (target.argmax(dim=1) if target.ndim > 1 else target.flatten().long()).tolist()
        pictures += [hashlib.blake2b(_first([(one,)]), digest_size=16).digest() for one in inputs]
        if time.monotonic() - began > SECONDS and len(row) >= FEWEST:
            break
    return row, pictures


def _empty(train: DataSplit) -> Finding:
    return Finding(
        "D10", "error", "An epoch of train has no batch", Culprit("drop_last"), (f"{len(train.paths)} pictures",),
        "Take a smaller batch, or drop_last=False.",
    )


def _of_coverage(data: Data, loader: DataLoader[Any], orders: Sequence[Sequence[int]], number: int) -> Iterator[Finding]:
    if not orders[0]:
        yield _empty(data.splits["train"])
        return
    if data.order not in ("shuffled", "sequential"):
        return
    seen, twice = [set(order) for order in orders], [len(order) - len(set(order)) for order in orders]
    missed = [set(range(number)) - own for own in seen]
    never, lost = len(missed[0] & missed[1]), max(map(len, missed))
    batch = loader.batch_size or max(1, len(orders[0]) // max(1, len(loader)))
    sampler = Culprit("drop_last" if loader.drop_last and lost < batch else f"sampler={type(loader.sampler).__name__}")
    if min(twice) > LEFT_OUT * number:
        yield Finding(
            "D10", "error", f"An epoch of train takes {min(twice)} pictures more than once, and is meant to take each once", sampler,
            (f"{len(orders[0])} of {number} positions, {len(set(orders[0]))} of them different", f"declared: {data.order}"),
            "Sample without replacement, or declare order='weighted'.",
        )
    elif never > max(batch, LEFT_OUT * number) and never >= 0.95 * lost:  # a limit on batches leaves out others each time
        yield Finding(
            "D10", "error", f"{never} pictures of train are never trained on", sampler,
            (f"of {number}; two epochs left out the same",), "Give the sampler the whole data set.",
        )
    elif lost > batch:
        yield Finding(
            "D10", "warning", f"An epoch of train leaves out {lost} of {number} pictures", sampler, (), "Declare it where it is meant.",
        )


def _of_order(
    patient: Patient, data: Data, rows: Sequence[Sequence[int]], orders: Sequence[Sequence[int]], loader: DataLoader[Any] | None,
) -> Iterator[Finding]:
    if data.order not in ("shuffled", "weighted"):
        return
    shares = Counter(label for label in _labels(patient, data) if label is not None)
    sampler = f"sampler={type(loader.sampler).__name__}" if loader is not None else "loader"
    culprit = Culprit("shuffle=False" if sampler.endswith("SequentialSampler") else sampler)
    scores = [_sortedness(row, shares, data.order) for row in rows]
    if min(scores) > SORTED and (not orders or _sortedness(_glimpse(data)[0], shares, data.order, least=0) > 0):  # and so they really come
        changes = [sum(one != other for one, other in pairwise(row)) for row in rows]
        yield Finding(
            "D10", "error", "Train is gone through sorted by label, not shuffled", culprit,
            (f"the label changes {changes[0]} and {changes[1]} times in the {len(rows[0])} pictures of two epochs that were looked at",
             f"{min(scores):.0f} deviations fewer than in a shuffled order"),
            "Shuffle: shuffle=True.",
        )
    elif len(orders) == 2 and len(orders[0]) > FEWEST and list(orders[0]) == list(orders[1]):
        yield Finding(
            "D10", "warning", "Train is gone through in the same order in every epoch", culprit,
            (f"{len(orders[0])} positions of two epochs",), "Make the generator once, not anew for every epoch; shuffle=True.",
        )


def _sortedness(row: Sequence[int], shares: Counter[int], order: str, *, least: int = FEWEST) -> float:
    """By how many deviations a row of labels changes less often than the same labels shuffled (Wald and Wolfowitz 1940).

    A row of one label alone is judged by how many pictures have it: it ends before the second one comes.
    """
    number = len(row)
    if number < max(2, least):
        return 0.0
    counts = np.array(list(Counter(row).values()), dtype=np.float64)
    if len(counts) == 1:
        share = shares[row[0]] / max(1, shares.total())
        is_unlikely = order == "shuffled" and 0 < share < 1 and number * math.log(share) < math.log(1e-8)
        return 2 * SORTED if is_unlikely else 0.0
    same = (counts * (counts - 1)).sum() / (number * (number - 1))
    changes = sum(one != other for one, other in pairwise(row))
    deviation = math.sqrt(max(1e-9, (number - 1) * same * (1 - same)))
    return float(((number - 1) * (1 - same) - changes) / deviation)


def _of_workers(data: Data, train: DataSplit) -> Iterator[Finding]:
    """Give one item to every worker of the owner's loader, for two epochs: what they draw must differ."""
    loader = dataloader(data, "train", WORKERS)
    if loader is None or loader.num_workers == 0 or not _is_cheap(loader):
        return
    position = next((place for place in spread(len(train.paths), ITEMS) if _varies(train, place)), None)
    if position is None:
        return
    second = dataloader(data, "train", WORKERS) or loader
    seen = [_drawn_by_workers(epoch, position) for epoch in (loader, second)]
    workers = [own[start::WORKERS] for own in seen for start in range(WORKERS)]
    drawn_at_all = Counter(chain.from_iterable(workers))
    if sum((number / drawn_at_all.total()) ** 2 for number in drawn_at_all.values()) ** (2 * IN_TURN) > BY_CHANCE:
        return
    alike = {
        "in every worker": workers[0] == workers[1] and workers[2] == workers[3],
        "in every epoch": workers[0] == workers[2] and workers[1] == workers[3],
    }
    if any(alike.values()):
        own = _generators_of(loader.dataset)
        yield Finding(
            "D10", "error", f"The same random numbers are drawn {' and '.join(where for where, is_so in alike.items() if is_so)}",
            _culprit(train, f"{type(loader.dataset).__name__}.{own[0]}" if own else ""),
            (f"{WORKERS} workers took item {position} {IN_TURN} times each, in two epochs: {len(drawn_at_all)} different pictures of "
             f"{drawn_at_all.total()}",),
            "Draw from torch's generator, which each worker has its own of, or seed by torch.initial_seed() in worker_init_fn.",
        )


def _generators_of(dataset: object) -> list[str]:
    """Names of the attributes that are generators of their own."""
    kinds = (np.random.Generator, np.random.RandomState, random.Random, torch.Generator)
    return [name for name, value in getattr(dataset, "__dict__", {}).items() if isinstance(value, kinds)]


def _is_cheap(loader: DataLoader[Any]) -> bool:
    """Whether its workers are forked: a new interpreter imports torch for seconds."""
    context = loader.multiprocessing_context
    method = context.get_start_method() if context is not None else torch.multiprocessing.get_start_method(allow_none=True)
    return (method or torch.multiprocessing.get_all_start_methods()[0]) == "fork"


def _varies(split: DataSplit, position: int) -> bool:
    try:
        looks = {bytes(torch.as_tensor(split.items[position][0]).contiguous().flatten().view(torch.uint8).numpy()) for _ in range(IN_TURN)}
    except ANY_ERROR:  # a file that cannot be read is D01's
        return False
    return len(looks) > 1


def _drawn_by_workers(loader: DataLoader[Any], position: int) -> list[bytes]:
    """What the owner's workers make of one item, turn by turn."""
    again: DataLoader[Any] = DataLoader(
        loader.dataset, batch_size=1, sampler=[position] * (WORKERS * IN_TURN), num_workers=WORKERS, worker_init_fn=loader.worker_init_fn,
        collate_fn=_first, generator=loader.generator, timeout=20,
    )
    return list(again)


def _first(batch: Sequence[Any]) -> bytes:
    """One item's picture as bytes: nothing else of it travels."""
    return torch.as_tensor(batch[0][0]).detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _of_repetition(glimpses: Sequence[Sequence[bytes]]) -> Iterator[Finding]:
    """A loader of another kind: two epochs must not show the same pictures to the bit."""
    number = min(map(len, glimpses))
    repeated = sum(one == other for one, other in zip(*glimpses, strict=False))
    if number >= ITEMS and repeated > 0.5 * number:
        yield Finding(
            "D10", "error", "Two epochs of train show the same pictures in the same order, to the bit", Culprit("loader"),
            (f"{repeated} of the first {number} pictures",), "Draw anew for each epoch.",
        )


EXAMINATIONS: tuple[Examination, ...] = (epochs,)
