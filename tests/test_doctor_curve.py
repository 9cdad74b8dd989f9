"""The curve doctor: eight histories and what is wrong with each, and nothing of those with which nothing is."""

import math
from collections.abc import Sequence
from typing import Any

import pytest

from catdog.config import TrainConfig
from catdog.doctor.curve import diagnose

CONFIG = TrainConfig.parse({"dataset": "ds_" + "0" * 32, "model": "unet", "learning_rate": 3e-3})
PRETRAINED = TrainConfig.parse({"dataset": "ds_" + "0" * 32})
CHANCE = math.log(2)


def told(
    train: Sequence[float], val: Sequence[float], *, recall: Sequence[float] = (0.8, 0.7), planned: int | None = None, **more: Any,
) -> list[dict[str, Any]]:
    """A history: what train and val lost in each epoch, and their accuracies as such losses have them."""
    return [
        {
            "kind": "epoch", "epoch": number, "epochs": planned or len(train), "train_loss": seen, "train_eval_loss": seen,
            "val_loss": known, "train_eval_accuracy": max(0.5, 1 - seen / 1.4), "val_accuracy": max(0.5, 1 - known / 1.4),
            "val_recall": list(recall), **more,
        }
        for number, (seen, known) in enumerate(zip(train, val, strict=True), 1)
    ]


def falling(first: float, last: float, epochs: int) -> list[float]:
    return [last + (first - last) * math.exp(-4 * number / epochs) for number in range(epochs)]


ILL = {
    "diverges": ("C01", told([0.7, 0.9, 1.6, 3.0], [0.7, 1.0, 1.9, 3.3])),
    "swings": ("C01", told([0.6, 0.3, 0.62, 0.28, 0.6, 0.25, 0.58, 0.3], [0.6, 0.4, 0.7, 0.4, 0.7, 0.4, 0.6, 0.4])),
    "collapses": ("C02", told([0.70] * 8, [0.71] * 8, recall=(1.0, 0.0))),
    "learns nothing": ("C03", told([0.694, 0.693, 0.692, 0.693], [0.693, 0.694, 0.694, 0.693], recall=(0.6, 0.4))),
    "underfits": ("C04", told([0.68, 0.6, 0.58, 0.579, 0.578, 0.579, 0.578, 0.577, 0.578], [0.68, 0.61, *[0.6] * 7])),
    "overfits": ("C05", told(falling(0.7, 0.01, 12), [0.6, 0.5, 0.42, 0.4, 0.43, 0.47, 0.52, 0.58, 0.64, 0.7, 0.76, 0.8])),
    "is too good": ("C06", told(falling(0.68, 0.3, 6), falling(0.65, 0.1, 6), val_accuracy=0.99)),
    "waits": ("C07", told(falling(0.68, 0.1, 6), falling(0.68, 0.15, 6), train_seconds=20.0, waited_seconds=13.0)),
}
WELL = {
    "a network from scratch": told(falling(0.7, 0.1, 20), falling(0.7, 0.16, 20)),
    "a head on good features": told(falling(0.3, 0.01, 40), falling(0.2, 0.03, 40)),
    "a noisy val": told(falling(0.69, 0.1, 10), [0.68, 0.5, 0.55, 0.3, 0.36, 0.24, 0.28, 0.2, 0.22, 0.18]),
    "a slow warm-up": told([0.693] * 2 + falling(0.69, 0.1, 18), [0.694] * 2 + falling(0.69, 0.15, 18)),
    "one label at first": told([0.70, 0.69], [0.70, 0.69], recall=(1.0, 0.0), planned=30),
    "train with dropout above val": told(falling(0.7, 0.2, 10), falling(0.65, 0.15, 10)),
    "the first epoch": told([0.69], [0.69]),
    "short epochs of features": told(falling(0.3, 0.05, 10), falling(0.3, 0.06, 10), train_seconds=0.03, waited_seconds=0.02),
}


@pytest.mark.parametrize(("code", "history"), ILL.values(), ids=ILL)
def test_what_is_wrong_with_a_history_is_said_with_figures_and_with_what_to_do(code: str, history: list[dict[str, Any]]) -> None:
    (finding,) = diagnose(history, CONFIG)
    assert finding.code == code
    assert any(letter.isdigit() for letter in finding.evidence[0]) and finding.remedy
    assert finding.severity != "error", "a curve is only ever a sign"


@pytest.mark.parametrize("history", WELL.values(), ids=WELL)
def test_nothing_is_said_of_a_history_with_which_nothing_is_wrong(history: list[dict[str, Any]]) -> None:
    for length in range(len(history) + 1):  # nor of one that is under way
        assert diagnose(history[:length], CONFIG) == []
    assert diagnose(history, PRETRAINED, has_ended=True) == [] or history[-1]["epochs"] > len(history)


def test_the_message_names_label_and_rate() -> None:
    (collapsed,) = diagnose(ILL["collapses"][1], CONFIG, labels=("cat", "dog"))
    assert "cat" in collapsed.message and "1.000" in collapsed.evidence[0]
    (diverged,) = diagnose(ILL["diverges"][1], CONFIG)
    assert diverged.culprit.what == "learning_rate=0.003" and "learning_rate=0.001" in diverged.remedy


def test_who_ended_early_is_judged_as_ended() -> None:
    history = [epoch | {"epochs": 40} for epoch in ILL["underfits"][1]]
    assert diagnose(history, CONFIG) == []
    assert [finding.code for finding in diagnose(history, CONFIG, has_ended=True)] == ["C04"]


def test_who_was_still_learning_is_told_to_go_on() -> None:
    (finding,) = diagnose(told([0.69 - 0.012 * number for number in range(12)], [0.69 - 0.01 * number for number in range(12)]), CONFIG)
    assert finding.severity == "info" and "more epochs" in finding.remedy


def test_perfect_from_random_weights_in_one_epoch_is_too_good_and_from_pretrained_ones_is_not() -> None:
    history = told([0.1, 0.01], [0.05, 0.01], train_eval_accuracy=1.0, val_accuracy=1.0)
    assert [finding.code for finding in diagnose(history, CONFIG)] == ["C06"]
    assert diagnose(history, PRETRAINED) == []


@pytest.mark.parametrize(("loss", "chance"), [("cross_entropy", math.log(3)), ("mse", 2 / 9), ("bce_with_logits", 0.6365)])
def test_chance_is_that_of_the_loss_and_of_the_number_of_labels(loss: str, chance: float) -> None:
    config = CONFIG.changed({"loss": loss})
    history = told([chance] * 4, [chance] * 4, recall=(0.3, 0.4, 0.3))
    assert [finding.code for finding in diagnose(history, config)] == ["C03"]
    better = told(falling(chance, 0.2 * chance, 8), falling(chance, 0.25 * chance, 8), recall=(0.9, 0.9, 0.8))
    assert diagnose(better, config) == []


def test_a_line_without_a_measure_is_no_reason_to_fail() -> None:
    assert diagnose([{"epoch": 1}, {"epoch": 2, "val_loss": None}, {"epoch": 3}], CONFIG) == []
