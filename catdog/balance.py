"""select, check, draw, downsample, order, weights, facts: which pictures a run uses, how often, and how much each of them counts.

    natural      every picture of train once an epoch, as many of each label as there are
    downsample   of each label as many as the smallest has; the others are left out of the whole run
    weighted     every picture once; its loss is multiplied by its label's weight
    sampler      as many turns for each label in every epoch; pictures of small labels come several times

val and test keep the balance they have: they measure. n_train, n_val and n_test draw from a split first, as evenly as it allows.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from catdog.config import BATCH_SIZE, TrainConfig
from catdog.datasets import Record, count
from catdog.errors import BadConfig
from catdog.schedules import steps_per_epoch
from catdog.splits import SPLITS


def select(records: Sequence[Record], labels: Sequence[str], config: TrainConfig) -> dict[str, list[Record]]:
    """The pictures of each split that a run with this config uses, in the order of the data set.

    Raises:
        BadConfig: see `check`.
    """
    check(config, count(records, labels))
    splits = {split: [record for record in records if record.split == split] for split in SPLITS}
    drawn = {split: draw(own, _wanted(config, split), seed=config.seed) for split, own in splits.items()}
    if config.balance == "downsample":
        drawn["train"] = downsample(drawn["train"], seed=config.seed)
    return drawn


def check(config: TrainConfig, counts: Mapping[str, Mapping[str, int]]) -> None:
    """Refuse a number of pictures or of steps that a data set with these `counts` (by split and label) cannot give.

    Fewer than asked for would be used silently otherwise, and the run would not be the one that its config describes.

    Raises:
        BadConfig: n_train, n_val or n_test is more than the split has, or less than one picture of each label; a batch is larger than
            what is trained on; or warmup_steps are more than the whole training has.
    """
    for split, by_label in counts.items():
        wanted, field, there = _wanted(config, split), f"n_{split}", sum(by_label.values())
        if wanted is not None and wanted > there:
            raise BadConfig(
                f"{field}: expected at most the {there} pictures of the {split} split. Received: {wanted}.",
                field=field, remedy=f"Set {field} to {there} or less, or leave it out to use all.",
            )
        if wanted is not None and wanted < len(by_label):
            raise BadConfig(
                f"{field}: expected at least one picture of each of the {len(by_label)} labels. Received: {wanted}.",
                field=field, remedy=f"Set {field} to {len(by_label)} or more, or leave it out to use all.",
            )
    images = _trained_on(config, counts["train"])
    if config.batch_size is not None and config.batch_size > images:
        raise BadConfig(
            f"batch_size: expected at most the {images} pictures that are trained on. Received: {config.batch_size}.",
            field="batch_size", remedy=f"Set batch_size to {images} or less, or leave it out.",
        )
    if 2 * config.devices > images > 0 and config.devices > 1:
        raise BadConfig(
            f"devices: expected at most {images // 2} for {images} pictures that are trained on. Received: {config.devices}.",
            field="devices",
        )
    steps = config.epochs * steps_per_epoch(images, batch_size=config.batch_size or BATCH_SIZE, ranks=config.devices)
    if config.warmup_steps > steps:
        raise BadConfig(
            f"warmup_steps: expected at most the {steps} steps of the training (epochs={config.epochs}, {images} pictures). "
            f"Received: {config.warmup_steps}.",
            field="warmup_steps", remedy=f"Set warmup_steps to {steps} or less, or epochs higher.",
        )


def draw(records: Sequence[Record], number: int | None, *, seed: int) -> list[Record]:
    """`number` of the records (None: all), as many of each label as possible, in the order in which they came.

    Where a label has too few, all of it is taken and the others share the rest. Of each label the first are taken, in the order of
    sha256(seed:content): neither names nor neighbours matter, and a larger number only adds to a smaller one.
    """
    if number is None:
        return list(records)
    by_label: dict[str, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: hashlib.sha256(f"{seed}:{record.sha256}".encode()).digest()):
        by_label[record.label].append(record)
    taken: set[str] = set()
    # The smallest label first: what it lacks is then shared by all that follow.
    for turn, (_, ranked) in enumerate(sorted(by_label.items(), key=lambda item: (len(item[1]), item[0]))):
        share = (number - len(taken)) // (len(by_label) - turn)
        taken.update(record.sha256 for record in ranked[:share])
    return [record for record in records if record.sha256 in taken]


def downsample(records: Sequence[Record], *, seed: int) -> list[Record]:
    """Of each label as many records as the smallest one has."""
    sizes = _sizes(records)
    return draw(records, min(sizes.values()) * len(sizes), seed=seed)


def order(targets: ArrayLike, *, seed: int, epoch: int) -> list[int]:
    """The positions of an epoch of `sampler`, as many as there are targets (N,) int: equally many turns for each label, give or take one.

    Within a label no picture comes again before all have come. Which pictures of a large label come changes from epoch to epoch. A
    pure function of its arguments, so that a resumed run sees what the first would have.
    """
    targets = np.asarray(targets)
    generator = np.random.default_rng([seed, epoch])
    members = [np.flatnonzero(targets == target) for target in np.unique(targets)]
    share, left = divmod(len(targets), len(members))
    turns = []
    for number, own in enumerate(members):
        wanted = share + (number < left)
        rounds = [generator.permutation(own) for _ in range(-(-wanted // len(own)))]
        turns.append(np.concatenate(rounds)[:wanted])
    positions: list[int] = generator.permutation(np.concatenate(turns)).tolist()
    return positions


def weights(targets: ArrayLike, labels: int) -> list[float]:
    """(labels,) what the loss of an image is multiplied by: inversely proportional to how many its label has.

    N / (labels that occur * images of the label), so that the mean over targets (N,) int is 1 and the learning rate means what it meant
    (scikit-learn's class_weight="balanced"). A label that does not occur has 1.
    """
    counts = np.bincount(np.asarray(targets), minlength=labels)
    present, images = int(np.count_nonzero(counts)), int(counts.sum())
    return [images / (present * int(own)) if own else 1.0 for own in counts]


def facts(selected: Mapping[str, Sequence[Record]], labels: Sequence[str], config: TrainConfig) -> dict[str, Any]:
    """What a run says about its pictures: how many of each split and label, and what the balance makes of those of train."""
    said: dict[str, Any] = {
        "balance": config.balance, "images": {split: len(records) for split, records in selected.items()},
        "counts": count(chain.from_iterable(selected.values()), labels),
    }
    place = {label: target for target, label in enumerate(labels)}
    targets = [place[record.label] for record in selected["train"]]
    if config.balance == "weighted":
        said["weights"] = dict(zip(labels, weights(targets, len(labels)), strict=True))
    if config.balance == "sampler":
        turns = np.bincount(np.asarray(targets)[order(targets, seed=config.seed, epoch=0)], minlength=len(labels))
        said["turns_per_epoch"] = dict(zip(labels, turns.tolist(), strict=True))
    return said


def _trained_on(config: TrainConfig, by_label: Mapping[str, int]) -> int:
    """How many pictures `select` takes of a training split that has so many of each label."""
    sizes = [size for size in by_label.values() if size]
    drawn = sum(sizes) if config.n_train is None else config.n_train
    if config.balance != "downsample" or not sizes:
        return drawn
    return min(*sizes, drawn // len(sizes)) * len(sizes)


def _wanted(config: TrainConfig, split: str) -> int | None:
    return {"train": config.n_train, "val": config.n_val, "test": config.n_test}[split]


def _sizes(records: Sequence[Record]) -> dict[str, int]:
    sizes: dict[str, int] = defaultdict(int)
    for record in records:
        sizes[record.label] += 1
    return sizes
