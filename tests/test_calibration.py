"""A confidence means something: fitted temperatures undo known ones, thresholds keep what they promise, distances know strangers."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catdog.calibration import Bank, Calibration, ece, expected_ece, farthest, least_confidence, softmax, temperature


def drawn(images: int, *, labels: int = 3, heat: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are too sure by `heat`, and targets drawn by what they would say without it."""
    generator = np.random.default_rng(seed)
    honest = generator.normal(scale=2, size=(images, labels))
    odds = np.exp(honest) / np.exp(honest).sum(axis=1, keepdims=True)
    target = np.array([generator.choice(labels, p=row) for row in odds])
    return (honest * heat).astype(np.float32), target


@pytest.mark.parametrize("heat", [0.4, 3.0])
def test_the_temperature_undoes_how_much_too_sure_a_network_is(heat: float) -> None:
    logits, target = drawn(4000, heat=heat)
    assert temperature(logits, target) == pytest.approx(heat, rel=0.06)


def test_where_the_pictures_say_nothing_nothing_is_changed() -> None:
    assert [temperature(*drawn(200, seed=seed)) for seed in range(20)].count(1.0) >= 18
    by_a_hair = np.array([[4.0, 0.0]] * 100 + [[0.02, 0.0]] * 2, np.float32)
    assert temperature(by_a_hair, np.repeat([0, 1], [100, 2])) == 1.0


def test_a_split_without_a_mistake_does_not_make_every_confidence_1() -> None:
    logits = np.tile(np.array([[20.0, -20.0]], np.float32), (1000, 1))
    assert softmax(logits, temperature(logits, np.zeros(1000, np.int64)))[0, 0] == pytest.approx(1001 / 1002, abs=1e-3)


@given(st.lists(st.lists(st.floats(-50, 50, width=32), min_size=3, max_size=3), min_size=1, max_size=4), st.floats(0.05, 20))
def test_softmax_is_a_distribution_that_keeps_the_order(rows: list[list[float]], heat: float) -> None:
    logits = np.array(rows, dtype=np.float32)
    probabilities = softmax(logits, heat)
    assert np.allclose(probabilities.sum(axis=1), 1) and (probabilities >= 0).all()
    assert np.allclose(probabilities, softmax(logits + np.float32(1), heat), atol=1e-3)
    assert all(p[row.argmax()] == p.max() for p, row in zip(probabilities, logits, strict=True))


def test_it_lowers_the_calibration_error() -> None:
    logits, target = drawn(4000, heat=3.0)

    def error(heat: float) -> float:
        odds = softmax(logits, heat)
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
    train, val = (np.concatenate([c + generator.normal(scale=0.2, size=(n, 64)) for c in centres]).astype(np.float32) for n in (500, 100))
    bank = Bank.of(train)
    edge = farthest(bank.distances(val), bank.own_distances())
    assert 0 < (bank.distances(val) > edge).sum() <= 2 or (bank.own_distances() > edge).mean() == pytest.approx(0.009, abs=0.002)
    strangers = generator.normal(size=(50, 64)).astype(np.float32)
    assert (bank.distances(strangers) > edge).all()
    bank.save(tmp_path / "bank.npz")
    assert np.array_equal(Bank.load(tmp_path / "bank.npz").distances(val), bank.distances(val))


def test_the_edge_is_where_validation_lies_unless_the_bank_itself_lies_further() -> None:
    near, far = np.linspace(0, 0.3, 101), np.linspace(0, 0.5, 101)
    assert farthest(far, near) == farthest(near, far) == pytest.approx(0.495)


def test_the_distance_is_to_the_tenth_nearest_other() -> None:
    rows = np.array([[np.cos(a), np.sin(a)] for a in np.linspace(0, 1.1, 12)], np.float32)
    bank = Bank.of(rows)
    assert bank.distances(rows[:1])[0] == pytest.approx(1 - np.cos(0.9), abs=1e-3)
    assert bank.own_distances()[0] == pytest.approx(1 - np.cos(1.0), abs=1e-3)
    assert Bank.of(rows[:3]).distances(rows[:1])[0] == pytest.approx(1 - np.cos(0.2), abs=1e-3)


@pytest.mark.parametrize("pictures", [2, 8, 10, 11, 12])
def test_few_training_pictures_know_a_stranger_too(pictures: int) -> None:
    generator = np.random.default_rng(0)
    familiar = (np.eye(1, 64) + generator.normal(scale=0.02, size=(pictures + 4, 64))).astype(np.float32)
    bank = Bank.of(familiar[:pictures])
    edge = farthest(bank.distances(familiar[pictures:]), bank.own_distances())
    assert edge < 0.1 and (bank.distances(np.eye(64, dtype=np.float32)[1:]) > edge).all()


def test_what_is_unfamiliar_gets_no_label_however_sure_and_the_unsure_none_however_near() -> None:
    calibration = Calibration(1.0, confidence=0.8, distance=0.5)
    assert calibration.reasons(np.array([0.99, 0.7, 0.8]), np.array([0.6, 0.1, 0.5])) == ["unfamiliar", "unsure", None]
    assert Calibration.from_dict(calibration.to_dict()) == calibration


def test_a_calibrated_model_is_within_what_is_expected_of_one_and_a_boastful_one_is_not() -> None:
    generator = np.random.default_rng(1)
    confidence = generator.uniform(0.5, 1, 400)
    low, high = expected_ece(confidence, draws=2000)
    assert low < ece(confidence, generator.random(400) < confidence) < high
    assert ece(confidence, generator.random(400) < confidence - 0.15) > high
