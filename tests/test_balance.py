"""balance: draws that are even and stay, turns and weights that make up for rarity, and a rare label that is found again."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from catdog import balance, loop
from catdog.config import TrainConfig
from catdog.datasets import Record, count
from catdog.errors import BadConfig
from catdog.loaders import Split, Splits
from catdog.progress import fits

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = st.lists(st.integers(1, 30), min_size=2, max_size=5)
LABELS = ("bird", "cat", "dog", "eel", "fox")


def config(**fields: Any) -> TrainConfig:
    return TrainConfig.parse({"dataset": "ds_" + "0" * 32, "model": "unet", **fields})


def record(content: str, label: str, split: str = "train") -> Record:
    return Record(
        sha256=content, name=f"{label}.{content}.jpg", label=label, split=split, width=8, height=8, bytes=1, format="PNG", mode="RGB",
        orientation=1, modified=None, group="",
    )


def records(sizes: list[int], split: str = "train") -> list[Record]:
    """So many of each label; the content of a picture is its number."""
    labels = [label for label, size in zip(LABELS, sizes, strict=False) for _ in range(size)]
    return [record(f"{split}{number:03d}", label, split) for number, label in enumerate(labels)]


def sizes_of(drawn: list[Record]) -> list[int]:
    return sorted(Counter(one.label for one in drawn).values())


@given(sizes=SIZES, share=st.floats(0, 1), seed=st.integers(0, 9))
def test_a_draw_is_as_even_as_the_labels_allow(sizes: list[int], share: float, seed: int) -> None:
    there = records(sizes)
    number = max(len(sizes), round(share * len(there)))
    if number > len(there):
        return
    drawn = balance.draw(there, number, seed=seed)
    assert len(drawn) == len({one.sha256 for one in drawn}) == number
    taken, whole = Counter(one.label for one in drawn), Counter(one.label for one in there)
    # Two labels differ by more than one only where the smaller is taken whole.
    for label in whole:
        assert taken[label] == whole[label] or taken[label] >= max(taken.values()) - 1


@given(sizes=SIZES, seed=st.integers(0, 9), shuffle=st.randoms(use_true_random=False))
def test_a_draw_depends_on_contents_and_seed_alone_and_a_larger_one_only_adds(sizes: list[int], seed: int, shuffle: Any) -> None:
    there = records(sizes)
    before: set[str] = set()
    shuffled = [*there]
    shuffle.shuffle(shuffled)
    for number in range(len(sizes), len(there) + 1, 5):
        drawn = {one.sha256 for one in balance.draw(there, number, seed=seed)}
        assert before <= drawn == {one.sha256 for one in balance.draw(shuffled, number, seed=seed)}
        before = drawn


def test_a_draw_keeps_the_order_of_the_data_set_and_differs_from_seed_to_seed() -> None:
    there = records([40, 40])
    one, other = (balance.draw(there, 20, seed=seed) for seed in (0, 1))
    assert one == sorted(one, key=there.index) and {record.sha256 for record in one} != {record.sha256 for record in other}


def test_without_a_number_every_picture_is_used() -> None:
    there = records([3, 5]) + records([2, 2], "val") + records([2, 2], "test")
    selected = balance.select(there, LABELS[:2], config())
    assert [one for split in ("train", "val", "test") for one in selected[split]] == there


def test_subsets_are_drawn_from_each_split_and_downsample_touches_train_alone() -> None:
    there = records([30, 6]) + records([20, 4], "val") + records([20, 4], "test")
    selected = balance.select(there, LABELS[:2], config(n_train=16, n_val=10, balance="downsample"))
    assert [sizes_of(selected[split]) for split in ("train", "val", "test")] == [[6, 6], [4, 6], [4, 20]]


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"n_train": 9}, "n_train", "at most the 8 pictures of the train split. Received: 9"),
        ({"n_val": 5}, "n_val", "at most the 4"),
        ({"n_test": 5}, "n_test", "at most the 4"),
    ],
)
def test_more_than_there_is_is_refused_and_not_made_less_of(fields: dict[str, int], field: str, message: str) -> None:
    there = records([3, 5]) + records([2, 2], "val") + records([2, 2], "test")
    with pytest.raises(BadConfig, match=message) as caught:
        balance.select(there, LABELS[:2], config(**fields))
    assert caught.value.field == field and f"Set {field} to" in caught.value.remedy


def test_a_draw_without_a_picture_of_each_label_is_refused() -> None:
    counts = {"train": dict.fromkeys(LABELS, 4), "val": dict.fromkeys(LABELS, 4), "test": dict.fromkeys(LABELS, 4)}
    balance.check(config(n_train=5, n_val=20), counts)
    with pytest.raises(BadConfig, match=r"at least one picture of each of the 5 labels\. Received: 4"):
        balance.check(config(n_test=4), counts)


@given(sizes=SIZES.filter(lambda sizes: sum(sizes) >= 4), share=st.floats(0, 1), how=st.sampled_from(["natural", "downsample", "sampler"]))
def test_a_batch_or_a_warm_up_is_refused_from_just_above_what_there_is(sizes: list[int], share: float, how: str) -> None:
    """Judged by the counts alone, without a picture in hand; the loop's own plan says how many steps there are."""
    there, labels = records(sizes), LABELS[: len(sizes)]
    fields: dict[str, Any] = {"n_train": max(2, len(sizes), round(share * len(there))), "balance": how, "epochs": 3}
    images = len(balance.select(there, labels, config(**fields))["train"])
    balance.check(config(**fields, batch_size=images), count(there, labels))
    with pytest.raises(BadConfig, match=f"batch_size: expected at most the {images} pictures"):
        balance.check(config(**fields, batch_size=images + 1), count(there, labels))

    steps = 3 * len(Split(torch.zeros(images, dtype=torch.int64), lambda *_: torch.zeros(0)).plan(4))
    fields |= {"batch_size": 4 if images >= 4 else None}
    balance.check(config(**fields, warmup_steps=steps), count(there, labels))
    with pytest.raises(BadConfig, match=rf"at most the {steps} steps .*\. Received: {steps + 1}\.") as caught:
        balance.check(config(**fields, warmup_steps=steps + 1), count(there, labels))
    assert caught.value.field == "warmup_steps" and f"Set warmup_steps to {steps} or less, or epochs higher" in caught.value.remedy


@given(sizes=SIZES, seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 99))
def test_every_label_has_as_many_turns_and_no_picture_comes_again_too_soon(sizes: list[int], seed: int, epoch: int) -> None:
    targets = torch.tensor([target for target, size in enumerate(sizes) for _ in range(size)])
    order = balance.order(targets, seed=seed, epoch=epoch)
    assert order == balance.order(targets, seed=seed, epoch=epoch) and len(order) == len(targets)
    turns = Counter(targets[order].tolist())
    for target, size in enumerate(sizes):
        assert turns[target] in (len(targets) // len(sizes), -(-len(targets) // len(sizes)))
        times = Counter(position for position in order if targets[position] == target)
        assert max(times.values(), default=0) - min(times.values(), default=0) <= 1
        assert len(times) == min(size, turns[target])


def test_another_epoch_brings_other_pictures_of_the_large_label() -> None:
    targets = np.array([0] * 90 + [1] * 10)
    epochs = [balance.order(targets, seed=0, epoch=epoch) for epoch in range(8)]
    assert len({tuple(order) for order in epochs}) == 8
    assert set().union(*epochs) >= set(range(90, 100)) and len(set().union(*epochs)) > 95


def test_weights_by_hand() -> None:
    assert balance.weights([0] * 9 + [1], 2) == [10 / 18, 5.0]
    assert balance.weights([0, 0, 2], 3) == [0.75, 1.0, 1.5]


@given(sizes=SIZES)
def test_weights_have_mean_one_and_give_each_label_the_same_say(sizes: list[int]) -> None:
    targets = [target for target, size in enumerate(sizes) for _ in range(size)]
    weights = balance.weights(targets, len(sizes))
    assert np.mean([weights[target] for target in targets]) == pytest.approx(1)
    assert [weight * size for weight, size in zip(weights, sizes, strict=True)] == pytest.approx([len(targets) / len(sizes)] * len(sizes))


def test_what_is_used_is_said() -> None:
    labels, there = LABELS[:2], records([9, 3]) + records([2, 2], "val") + records([2, 2], "test")
    said = {how: balance.facts(balance.select(there, labels, config(balance=how)), labels, config(balance=how))
            for how in ("natural", "downsample", "weighted", "sampler")}
    assert said["natural"] == {
        "balance": "natural", "images": {"train": 12, "val": 4, "test": 4}, "counts": count(there, labels),
    }
    assert said["downsample"]["counts"]["train"] == {"bird": 3, "cat": 3}
    assert said["weighted"]["weights"] == {"bird": pytest.approx(2 / 3), "cat": 2.0}
    assert said["sampler"]["turns_per_epoch"] == {"bird": 6, "cat": 6} and said["sampler"]["counts"]["train"] == {"bird": 9, "cat": 3}


def test_what_is_said_of_a_thousand_labels_is_known_not_to_fit_in_a_line() -> None:
    labels = [f"label {number}" for number in range(1000)]
    there = [record(f"{split}{label}", label, split) for split in ("train", "val", "test") for label in labels]
    assert not fits(balance.facts(balance.select(there, labels, config()), labels, config()))
    assert fits(balance.facts(balance.select(records([9, 3]), LABELS[:2], config()), LABELS[:2], config()))


def clouds(common: int, rare: int, *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (N, 2) of two labels whose clouds overlap: whoever wants few errors calls the rare one common."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.tensor([0] * common + [1] * rare)
    return torch.randn((len(targets), 2), generator=generator) + targets[:, None] * 1.2, targets


def rare_recall(folder: Path, how: str) -> float:
    """Train a head on 90:10 and return the recall of the rare label on pictures that it has not seen."""
    chosen = config(balance=how, epochs=4, batch_size=20, learning_rate=0.1, schedule="constant", seed=3)
    values, targets = clouds(180, 20, seed=1)
    there = [record(f"{position:03d}", LABELS[target]) for position, target in enumerate(targets.tolist())]
    selected = balance.downsample(there, seed=3) if how == "downsample" else there
    kept = [int(one.sha256) for one in selected]
    unseen, truth = clouds(400, 400, seed=2)
    torch.manual_seed(0)
    head = nn.Linear(2, 2)
    train, val = split(values[kept], targets[kept]), split(unseen, truth)
    for _ in loop.train(head, Splits(train, val), chosen, labels=2, device="cpu", folder=folder):
        pass
    with torch.no_grad():
        found: torch.Tensor = head(unseen).argmax(dim=1) == truth
    return found[truth == 1].double().mean().item()


def split(values: torch.Tensor, targets: torch.Tensor) -> Split:
    return Split(targets, lambda positions, *_: values[positions])


def test_of_ninety_to_ten_every_balance_finds_more_of_the_rare_label(tmp_path: Path) -> None:
    recalls = {how: rare_recall(tmp_path / how, how) for how in ("natural", "downsample", "weighted", "sampler")}
    assert all(recalls[how] > recalls["natural"] + 0.2 for how in ("downsample", "weighted", "sampler")), recalls
