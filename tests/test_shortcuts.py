"""shortcuts.py: labels that can be told without looking at the picture."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catdog.datasets import Record
from catdog.shortcuts import MIN_PICTURES, _auc, _ranks, find

RANDOM = np.random.default_rng(3)


def record(number: int, label: str) -> Record:
    return Record(
        f"{number:064x}", f"{label}.{number}.jpg", label, "train", int(RANDOM.integers(300, 600)), int(RANDOM.integers(300, 600)),
        int(RANDOM.integers(20_000, 90_000)), "JPEG", "RGB", 1, 1_700_000_000 + int(RANDOM.integers(0, 400 * 86_400)), "",
    )


HEALTHY = [record(number, "cat" if number % 2 else "dog") for number in range(200)]


def test_a_healthy_set_is_not_accused() -> None:
    assert find(HEALTHY) == []


@pytest.mark.parametrize(("fact", "change"), [
    ("width", lambda one: {"width": one.width + 400}), ("height", lambda one: {"height": one.height // 3}),
    ("format", lambda _: {"format": "PNG"}), ("mode", lambda _: {"mode": "L"}),
    ("day of change", lambda one: {"modified": one.modified + 500 * 86_400}),
    ("bytes a pixel", lambda one: {"bytes": one.bytes * 20}),
])
def test_a_fact_that_gives_a_label_away_is_named(fact: str, change: Callable[[Record], dict[str, object]]) -> None:
    biased = [replace(one, **change(one)) if one.label == "cat" else one for one in HEALTHY]  # type: ignore[arg-type]
    assert fact in [found.fact.removesuffix(" RGB").removesuffix(" PNG") for found in find(biased)]


def test_of_three_labels_the_one_that_is_given_away_is_named() -> None:
    three = [replace(one, label="bird", width=2000) if number % 3 == 0 else one for number, one in enumerate(HEALTHY)]
    assert {found.label for found in find(three)} == {"bird"}


def test_few_pictures_and_one_days_copying_prove_nothing() -> None:
    few = [replace(one, width=900 if one.label == "cat" else 100) for one in HEALTHY[: 2 * MIN_PICTURES - 2]]
    assert find(few) == []
    copied = [replace(one, modified=1_700_000_000 + number) for number, one in enumerate(sorted(HEALTHY, key=lambda one: one.label))]
    assert find(copied) == []
    assert find([]) == []


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=4, max_size=60))
def test_the_area_is_the_share_of_pairs_in_order(pairs: list[tuple[int, bool]]) -> None:
    values = np.array([value for value, _ in pairs], dtype=np.float64)
    mine = np.array([is_mine for _, is_mine in pairs])
    if mine.all() or not mine.any():
        return
    wins = [(a > b) + (a == b) / 2 for a in values[mine] for b in values[~mine]]
    assert _auc(_ranks(values), mine) == pytest.approx(max(np.mean(wins), 1 - np.mean(wins)))


def test_the_shared_photographs_are_not_accused(shared_data: Callable[..., Path]) -> None:
    from PIL import Image

    found = []
    for path in sorted(shared_data("dogs_vs_cats", "train").iterdir()):
        with Image.open(path) as image:
            found.append(Record(
                path.name, path.name, path.name[:3], "train", *image.size, path.stat().st_size, "JPEG", image.mode, 1,
                int(path.stat().st_mtime), "",
            ))
    assert find(found) == []
