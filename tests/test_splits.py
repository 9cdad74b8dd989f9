"""splits.py: who trains, who chooses, who tests."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catdog.errors import BadDataset
from catdog.splits import assign, check

SIZES = st.lists(st.integers(6, 120), min_size=2, max_size=4)


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
            assert counts[f"label{label}", split] == max(2, round(0.15 * size))
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
        (pictures([6, 5]), "label1"),
        ([*pictures([9, 9], "train"), *((f"v{n}", "label0", "val") for n in (0, 1)), *pictures([2, 2], "test")], "0 in val"),
        (pictures([9, 9], "test"), "0 in train"),
    ],
)
def test_too_few_pictures_are_refused(items: list[tuple[str, str, str | None]], said: str) -> None:
    with pytest.raises(BadDataset, match=said):
        check(items, assign(items, seed=0))


@given(SIZES, st.integers(0, 2**32 - 1), st.data())
def test_a_group_never_stands_in_two_splits(sizes: list[int], seed: int, data: st.DataObject) -> None:
    places: list[str | None] = ["train", "val", "test"] if data.draw(st.booleans()) else [None]
    items = [(content, label, data.draw(st.sampled_from(places))) for content, label, _ in pictures(sizes)]
    numbers = data.draw(st.lists(st.integers(0, 5), min_size=len(items), max_size=len(items)))
    groups = [[position for position, number in enumerate(numbers) if number == group] for group in range(3)]
    groups = [group for group in groups if len(group) > 1]
    chosen = assign(items, seed=seed, groups=groups)
    for group in groups:
        assert len({chosen[position] for position in group} - {None}) == 1
    grouped = {position for group in groups for position in group}
    for position, (_, _, split) in enumerate(items):
        if split is not None:
            assert chosen[position] in (split, None)
        assert chosen[position] is not None or position in grouped


def test_of_a_group_in_several_given_splits_test_wins_over_val_and_val_over_train() -> None:
    items = [*pictures([9, 9], "train"), *((f"v{n}", f"label{n % 2}", "val") for n in range(8))]
    items += [(f"t{n}", f"label{n % 2}", "test") for n in range(8)]
    chosen = assign(items, seed=0, groups=[[0, 18, 26], [1, 19], [2, 3]])
    assert [chosen[position] for position in (0, 18, 26, 1, 19, 2, 3)] == [None, None, "test", None, "val", "train", "train"]


def test_adding_pictures_moves_few_others() -> None:
    before = dict(zip(pictures([200]), assign(pictures([200, 200])[:400], seed=1)[:200], strict=True))
    after = dict(zip(pictures([220]), assign(pictures([220, 200]), seed=1)[:220], strict=True))
    moved = [picture for picture, split in before.items() if after[picture] != split]
    assert len(moved) <= 6 and not any({before[one], after[one]} == {"val", "test"} for one in moved)


def alike(sizes: list[int], label: str = "label0") -> tuple[list[tuple[str, str, str | None]], list[list[int]]]:
    """Pictures of one label in groups of these sizes, and the groups."""
    ends = [sum(sizes[: turn + 1]) for turn in range(len(sizes))]
    groups = [list(range(end - size, end)) for end, size in zip(ends, sizes, strict=True)]
    return [(f"{label}-{number}", label, None) for number in range(sum(sizes))], groups


@given(st.lists(st.integers(2, 30), max_size=8), st.integers(0, 12), st.integers(0, 2**32 - 1))
def test_large_groups_are_shared_out_wherever_that_is_possible(sizes: list[int], single: int, seed: int) -> None:
    """Each group can fill a split, and so can two pictures of their own."""
    items, groups = alike([*sizes, single])
    groups = groups[:-1]
    chosen = assign(items, seed=seed, groups=groups)
    assert all(len({chosen[position] for position in group}) == 1 for group in groups)
    if len(sizes) + single // 2 >= 3:
        check(items, chosen, groups=groups)
    elif items:
        with pytest.raises(BadDataset):
            check(items, chosen, groups=groups)


def test_of_large_groups_the_smallest_go() -> None:
    items, groups = alike([40, 22, 50, 21])  # of 133 pictures the share is 20
    chosen = assign(items, seed=0, groups=groups)
    assert {len(group): chosen[group[0]] for group in groups} == {40: "train", 50: "train", 21: "test", 22: "val"}


def test_splits_that_are_given_need_nothing_left_for_them() -> None:
    items, groups = alike([3, 3])
    given_ = [*((name, label, "train") for name, label, _ in items), *((f"v{number}", "label0", "val") for number in range(2))]
    assert Counter(assign(given_, seed=0, groups=groups)) == {"train": 3, "test": 3, "val": 2}


def test_a_refusal_says_how_many_stay_together() -> None:
    items, groups = alike([9, 2])
    with pytest.raises(BadDataset, match=r"11 of them in 2 groups that show the same and stay together"):
        check(items, assign(items, seed=0, groups=groups), groups=groups)
    with pytest.raises(BadDataset, match=r"\(of 5\)"):
        check(pictures([5]), assign(pictures([5]), seed=0), groups=())
