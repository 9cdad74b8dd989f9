"""A confidence means something: fitted temperatures undo known ones, thresholds keep what they promise, distances know strangers."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catdog.calibration import Bank, ece, expected_ece, least_confidence, temperature


def drawn(images: int, *, labels: int = 3, heat: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are too sure by `heat`, and targets drawn by what they would say without it."""
    generator = np.random.default_rng(seed)
    honest = generator.normal(scale=2, size=(images, labels))
    odds = np.exp(honest) / np.exp(honest).sum(axis=1, keepdims=True)
    target = np.array([generator.choice(labels, p=row) for row in odds])
    return (honest * heat).astype(np.float32), target


@pytest.mark.parametrize("heat", [0.4, 1.0, 3.0])
def test_the_temperature_undoes_how_much_too_sure_a_network_is(heat: float) -> None:
    logits, target = drawn(4000, heat=heat)
    assert temperature(logits, target) == pytest.approx(heat, rel=0.06)


def test_a_split_without_a_mistake_does_not_make_every_confidence_1() -> None:
    logits = np.tile(np.array([[4.0, -4.0]], np.float32), (100, 1))
    heat = temperature(logits, np.zeros(100, np.int64))
    sure = 1 / (1 + np.exp(-8 / heat))
    assert sure == pytest.approx(101 / 102, abs=1e-3)


def test_it_lowers_the_calibration_error() -> None:
    logits, target = drawn(4000, heat=3.0)

    def error(heat: float) -> float:
        odds = np.exp(logits / heat - (logits / heat).max(axis=1, keepdims=True))
        odds /= odds.sum(axis=1, keepdims=True)
        return ece(odds.max(axis=1), odds.argmax(axis=1) == target)

    assert error(temperature(logits, target)) < error(1.0) / 4


@given(st.lists(st.tuples(st.integers(1, 20), st.booleans()), min_size=1, max_size=60), st.sampled_from([0.5, 0.9, 0.99]))
def test_what_is_answered_is_as_precise_as_promised_and_nothing_lower_would_be(pairs: list[tuple[int, bool]], precision: float) -> None:
    confidence = np.array([one / 20 for one, _ in pairs])
    hit = np.array([one for _, one in pairs])
    least = least_confidence(confidence, hit, precision=precision)
    answered = hit[confidence >= least]
    assert len(answered) == 0 or answered.mean() >= precision
    for lower in np.unique(confidence[confidence < least]):
        assert hit[confidence >= lower].mean() < precision


def test_a_stranger_is_farther_than_anyone_familiar(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(2, 64))
    train, val = (np.concatenate([c + generator.normal(scale=0.2, size=(n, 64)) for c in centres]).astype(np.float32) for n in (1500, 100))
    bank = Bank.of(train, val)
    assert bank.rows.shape == (2000, 64)
    assert (bank.distances(val) > bank.farthest).sum() == 2  # 1 % of 200
    strangers = generator.normal(size=(50, 64)).astype(np.float32)
    assert (bank.distances(strangers) > bank.farthest).all()
    bank.save(tmp_path / "bank.npz")
    again = Bank.load(tmp_path / "bank.npz")
    assert np.allclose(again.distances(val), bank.distances(val), atol=1e-3)


def test_the_distance_is_to_the_tenth_nearest() -> None:
    rows = np.array([[np.cos(a), np.sin(a)] for a in np.linspace(0, 1.1, 12)], np.float32)
    bank = Bank(rows, 1.0)
    assert bank.distances(rows[:1])[0] == pytest.approx(1 - np.cos(0.9), abs=1e-6)


def test_a_calibrated_model_is_within_what_is_expected_of_one_and_a_boastful_one_is_not() -> None:
    generator = np.random.default_rng(1)
    confidence = generator.uniform(0.5, 1, 400)
    low, high = expected_ece(confidence, draws=2000)
    assert low < ece(confidence, generator.random(400) < confidence) < high
    assert ece(confidence, generator.random(400) < confidence - 0.15) > high
