"""metrics: each image counts once, whatever the batches; every figure is scikit-learn's of the whole split."""

import json
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk
from torch import nn

from catdog import loop
from catdog.loaders import Split
from catdog.losses import build
from catdog.metrics import MAX_CONFUSED, Answers, Measures, Tally, is_better
from catdog.progress import MAX_LINE_BYTES, Progress

pytestmark = pytest.mark.usefixtures("one_thread")


def answers_of(truth: list[int], called: list[int], labels: int) -> Answers:
    """To images of which these are the labels and these the answers."""
    logits = torch.nn.functional.one_hot(torch.tensor(called), labels).float()
    return Answers(torch.ones(len(truth), dtype=torch.float64), logits, torch.tensor(truth))


def evaluated(logits: torch.Tensor, target: torch.Tensor, batch_size: int) -> Answers:
    """Through loop.evaluate, whose network gives back what it is fed."""
    split = Split(target, lambda positions, _epoch: logits[positions])
    answers = loop.evaluate(nn.Identity(), split, loss=build("cross_entropy", labels=logits.shape[1]), batch_size=batch_size)
    while True:
        try:
            next(answers)
        except StopIteration as end:
            found: Answers = end.value
            return found


@given(images=st.integers(1, 40), batch_size=st.integers(1, 41), labels=st.integers(2, 5), seed=st.integers(0, 2**31))
def test_every_figure_is_scikit_learns_of_the_whole_split_however_ragged_the_batches(
    images: int, batch_size: int, labels: int, seed: int,
) -> None:
    torch.manual_seed(seed)
    logits, target = torch.randn(images, labels, dtype=torch.float64), torch.randint(labels, (images,))
    measures = Measures.of(evaluated(logits, target, batch_size))
    truth, probabilities, every = target.numpy(), logits.softmax(dim=1).numpy(), list(range(labels))
    called = probabilities.argmax(axis=1)
    assert measures.images == images
    assert measures.loss == pytest.approx(sk.log_loss(truth, probabilities, labels=every), abs=1e-9)
    assert measures.accuracy == pytest.approx(sk.accuracy_score(truth, called))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of answers that do not occur
        assert measures.balanced_accuracy == pytest.approx(sk.balanced_accuracy_score(truth, called))
    assert measures.brier == pytest.approx(sk.brier_score_loss(truth, probabilities, labels=every))
    assert measures.recall == pytest.approx(list(sk.recall_score(truth, called, labels=every, average=None, zero_division=0)))
    assert measures.confusion == sk.confusion_matrix(truth, called, labels=every).tolist()
    if len(set(truth.tolist())) == labels:
        scores = probabilities[:, 1] if labels == 2 else probabilities
        assert measures.auroc == pytest.approx(sk.roc_auc_score(truth, scores, multi_class="ovr"))
    assert sum(one["images"] for one in measures.bins) == images


@given(images=st.integers(1, 40), batch_size=st.integers(1, 41), seed=st.integers(0, 2**31))
def test_a_tally_of_batches_is_that_of_the_whole(images: int, batch_size: int, seed: int) -> None:
    torch.manual_seed(seed)
    logits, target, loss = torch.randn(images, 3, dtype=torch.float64), torch.randint(3, (images,)), build("cross_entropy", labels=3)
    tally = Tally()
    for start in range(0, images, batch_size):
        part = slice(start, start + batch_size)
        tally.add(loss(logits[part], target[part]), logits[part], target[part])
    assert tally.images == images
    assert abs(tally.loss - loss(logits, target).mean().item()) < 1e-9
    assert tally.accuracy == (logits.argmax(1) == target).double().mean().item()


def test_figures_by_hand() -> None:
    # 6 cats, 3 dogs, 1 eel. Of the cats one is called a dog; of the dogs one a cat; the eel is called a cat; nothing is called an eel.
    measures = Measures.of(answers_of([0, 0, 0, 0, 0, 0, 1, 1, 1, 2], [0, 0, 0, 0, 0, 1, 1, 1, 0, 0], 3))
    figures = measures.to_dict(["cat", "dog", "eel"])
    assert {name: figures[name] for name in ("images", "loss", "accuracy")} == {"images": 10, "loss": 1.0, "accuracy": 0.7}
    assert figures["balanced_accuracy"] == pytest.approx((5 / 6 + 2 / 3 + 0) / 3)
    assert measures.by("f1") == pytest.approx((10 / 13 + 2 / 3 + 0) / 3)
    assert figures["by_label"] == {
        "cat": {"images": 6, "precision": pytest.approx(5 / 7), "recall": pytest.approx(5 / 6), "f1": pytest.approx(10 / 13)},
        "dog": {"images": 3, "precision": pytest.approx(2 / 3), "recall": pytest.approx(2 / 3), "f1": pytest.approx(2 / 3)},
        "eel": {"images": 1, "precision": 0.0, "recall": 0.0, "f1": 0.0},
    }
    assert figures["confusion"] == [[5, 1, 0], [1, 2, 0], [1, 0, 0]]


def test_calibration_by_hand() -> None:
    """Four answers at 0.9 of which three are right, two at 0.6 of which none is: |0.75 - 0.9| * 4/6 + |0 - 0.6| * 2/6."""
    right = [True, True, True, False, False, False]
    sure = [0.9, 0.9, 0.9, 0.9, 0.6, 0.6]
    logits = torch.tensor([[p, 1 - p] for p in sure], dtype=torch.float64).log()
    measures = Measures.of(Answers(torch.ones(6, dtype=torch.float64), logits, torch.tensor([0 if is_right else 1 for is_right in right])))
    assert measures.ece == pytest.approx(0.15 * 4 / 6 + 0.6 * 2 / 6)
    assert measures.bins == [
        {"confidence": pytest.approx(0.6), "accuracy": 0.0, "images": 2}, {"confidence": pytest.approx(0.9), "accuracy": 0.75, "images": 4},
    ]


def test_a_label_that_does_not_occur_does_not_lower_the_balanced_accuracy() -> None:
    measures = Measures.of(answers_of([0, 0, 1], [0, 2, 1], 3))
    assert measures.balanced_accuracy == (1 / 2 + 1) / 2
    assert measures.recall == [0.5, 1.0, 0.0] and measures.precision == [1.0, 1.0, 0.0]


def test_where_one_label_occurs_alone_there_is_no_curve() -> None:
    assert Measures.of(answers_of([0, 0], [0, 1], 2)).auroc is None


def test_a_loss_that_is_not_finite_has_a_position() -> None:
    answers = Answers(torch.tensor([0.1, float("nan"), float("inf")]), torch.zeros(3, 2), torch.tensor([0, 1, 0]))
    assert answers.non_finite == [1, 2]


def test_better_is_lower_for_what_is_lost_and_higher_for_what_is_won() -> None:
    assert is_better("loss", 0.1, 0.2) and not is_better("loss", 0.2, 0.1) and not is_better("loss", 0.1, 0.1)
    assert is_better("auroc", 0.2, 0.1) and not is_better("auroc", 0.1, 0.2)
    assert is_better("brier", 0.1, 0.2) and is_better("ece", 0.1, 0.2) and is_better("f1", 0.2, 0.1)
    assert is_better("loss", 5.0, None) and not is_better("auroc", None, 0.1) and not is_better("auroc", None, None)
    assert not is_better("accuracy", 0.91, 0.9, by=0.02) and is_better("accuracy", 0.93, 0.9, by=0.02)


def test_a_thousand_labels_fit_into_a_line_and_their_confusion_stays_out() -> None:
    labels = 1000
    truth = np.random.default_rng(0).integers(0, labels, 3000)
    measures = Measures.of(answers_of(truth.tolist(), (truth * 7 % labels).tolist(), labels))
    line = Progress(
        "epoch", val_precision=[round(x, 4) for x in measures.precision], val_recall=[round(x, 4) for x in measures.recall],
        val_f1=[round(x, 4) for x in measures.f1],
    ).to_json()
    assert len(line) < MAX_LINE_BYTES and "val_auroc" not in line
    assert labels > MAX_CONFUSED and "confusion" not in measures.to_dict([str(number) for number in range(labels)])
    assert json.dumps(measures.to_dict([str(number) for number in range(labels)]), allow_nan=False)
    assert sum(measures.support) == 3000 == sum(Counter(truth.tolist()).values())
