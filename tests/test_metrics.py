"""metrics: each image counts once, whatever the batches; every figure by hand, and by its definition."""

import json
from collections import Counter
from dataclasses import asdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from catdog.losses import build
from catdog.metrics import Tally
from catdog.progress import MAX_LINE_BYTES, Progress

pytestmark = pytest.mark.usefixtures("one_thread")


def tally_of(truth: list[int], answers: list[int], labels: int) -> Tally:
    """A tally of images of which these are the labels and these the answers."""
    tally = Tally()
    logits = torch.nn.functional.one_hot(torch.tensor(answers), labels).float()
    tally.add(torch.ones(len(truth)), logits, torch.tensor(truth))
    return tally


@given(images=st.integers(1, 40), batch_size=st.integers(1, 41), seed=st.integers(0, 2**31))
def test_batch_size_changes_no_figure(images: int, batch_size: int, seed: int) -> None:
    torch.manual_seed(seed)
    logits, target, loss = torch.randn(images, 3, dtype=torch.float64), torch.randint(3, (images,)), build("cross_entropy", labels=3)
    tally, whole = Tally(), Tally()
    for start in range(0, images, batch_size):
        part = slice(start, start + batch_size)
        tally.add(loss(logits[part], target[part]), logits[part], target[part])
    whole.add(loss(logits, target), logits, target)
    assert tally.images == images
    assert abs(tally.loss - loss(logits, target).mean().item()) < 1e-9
    assert tally.accuracy == (logits.argmax(1) == target).double().mean().item()
    assert {**asdict(tally), "loss_sum": 0} == {**asdict(whole), "loss_sum": 0}


def test_figures_by_hand() -> None:
    # 6 cats, 3 dogs, 1 eel. Of the cats one is called a dog; of the dogs one a cat; the eel is called a cat; nothing is called an eel.
    tally = tally_of([0, 0, 0, 0, 0, 0, 1, 1, 1, 2], [0, 0, 0, 0, 0, 1, 1, 1, 0, 0], 3)
    figures = tally.to_dict(["cat", "dog", "eel"])
    assert {name: figures[name] for name in ("images", "loss", "accuracy")} == {"images": 10, "loss": 1.0, "accuracy": 0.7}
    assert figures["balanced_accuracy"] == pytest.approx((5 / 6 + 2 / 3 + 0) / 3)
    assert figures["by_label"] == {
        "cat": {"images": 6, "precision": pytest.approx(5 / 7), "recall": pytest.approx(5 / 6), "f1": pytest.approx(10 / 13)},
        "dog": {"images": 3, "precision": pytest.approx(2 / 3), "recall": pytest.approx(2 / 3), "f1": pytest.approx(2 / 3)},
        "eel": {"images": 1, "precision": 0.0, "recall": 0.0, "f1": 0.0},
    }


def test_a_label_that_does_not_occur_does_not_lower_the_balanced_accuracy() -> None:
    tally = tally_of([0, 0, 1], [0, 2, 1], 3)
    assert tally.balanced_accuracy == pytest.approx((0.5 + 1) / 2)
    assert (tally.precision[2], tally.recall[2], tally.f1[2]) == (0.0, 0.0, 0.0)


@given(pairs=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=50))
def test_figures_are_what_their_definitions_say(pairs: list[tuple[int, int]]) -> None:
    truth, answers = [list(column) for column in zip(*pairs, strict=True)]
    tally, cells = tally_of(truth, answers, 4), Counter(pairs)
    for label in range(4):
        right = cells[label, label]
        called, there = sum(cells[other, label] for other in range(4)), sum(cells[label, other] for other in range(4))
        precision, recall = right / called if called else 0.0, right / there if there else 0.0
        f1 = 2 * precision * recall / (precision + recall) if right else 0.0
        assert (tally.precision[label], tally.recall[label]) == (precision, recall)
        assert tally.f1[label] == pytest.approx(f1)
    assert tally.accuracy == sum(cells[label, label] for label in range(4)) / len(pairs)
    present = sorted(set(truth))
    assert tally.balanced_accuracy == pytest.approx(sum(tally.recall[label] for label in present) / len(present))
    if len(set(Counter(truth).values())) == 1:
        assert tally.balanced_accuracy == pytest.approx(tally.accuracy)


def test_a_thousand_labels_stay_small_in_a_checkpoint_and_fit_in_an_epochs_line() -> None:
    labels = list(range(1000))
    tally = tally_of(labels * 3, [(label * 7) % 1000 for label in labels] * 3, 1000)
    assert len(json.dumps(asdict(tally))) < 16_384
    figures = [round(share / 3, 4) for share in tally.precision]
    assert len(Progress("epoch", val_precision=figures, val_recall=figures, val_f1=figures).to_json()) < MAX_LINE_BYTES
