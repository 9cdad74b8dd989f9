"""splits.py: who trains, who chooses, who tests."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catdog.errors import BadDataset
from catdog.splits import assign

SIZES = st.lists(st.integers(4, 120), min_size=2, max_size=4)


def pictures(sizes: list[int], split: str | None = None) -> list[tuple[str, str, str | None]]:
    return [(f"{label}-{number}", f"label{label}", split) for label, size in enumerate(sizes) for number in range(size)]


@given(SIZES, st.integers(0, 2**32 - 1), st.randoms(use_true_random=False))
def test_the_split_does_not_depend_on_the_order(sizes: list[int], seed: int, rng: object) -> None:
    ordered = pictures(sizes)
    mixed = list(ordered)
    rng.shuffle(mixed)  # type: ignore[attr-defined]
    assert dict(zip(ordered, assign(ordered, seed=seed), strict=True)) == dict(zip(mixed, assign(mixed, seed=seed), strict=True))


@given(SIZES, st.integers(0, 2**32 - 1))
def test_each_label_is_shared_out_alike(sizes: list[int], seed: int) -> None:
    chosen = assign(pictures(sizes), seed=seed)
    counts = Counter((label, split) for (_, label, _), split in zip(pictures(sizes), chosen, strict=True))
    for label, size in enumerate(sizes):
        for split in ("val", "test"):
            assert abs(counts[f"label{label}", split] - 0.15 * size) <= 1
            assert counts[f"label{label}", split] >= 1
        assert counts[f"label{label}", "train"] >= 2


@given(SIZES, st.integers(0, 2**32 - 1))
def test_labels_do_not_disturb_each_other(sizes: list[int], seed: int) -> None:
    all_ = dict(zip(pictures(sizes), assign(pictures(sizes), seed=seed), strict=True))
    part = pictures(sizes[:1])
    assert dict(zip(part, assign(part, seed=seed), strict=True)).items() <= all_.items()


def test_another_seed_is_another_split() -> None:
    assert assign(pictures([40, 40]), seed=0) != assign(pictures([40, 40]), seed=1)


def test_given_splits_stay_and_missing_ones_come_out_of_train() -> None:
    given_ = [*pictures([20, 20], "train"), *(("t" + name, label, split) for name, label, split in pictures([5, 5], "test"))]
    chosen = assign(given_, seed=3)
    assert chosen[40:] == ["test"] * 10
    assert Counter(chosen[:40]) == {"train": 34, "val": 6}


@pytest.mark.parametrize(
    ("items", "said"),
    [
        (pictures([4, 3]), "label1"),
        ([*pictures([9, 9], "train"), ("v", "label0", "val"), ("t", "label0", "test"), ("u", "label1", "test")], "0 in val"),
        (pictures([9, 9], "test"), "0 in train"),
    ],
)
def test_too_few_pictures_are_refused(items: list[tuple[str, str, str | None]], said: str) -> None:
    with pytest.raises(BadDataset, match=said):
        assign(items, seed=0)
