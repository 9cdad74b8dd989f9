"""comparison: the paired test, its bound, and the rule that makes a verdict of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catdog.comparison import MIN_PICTURES, Comparison

COUNTS = st.builds(
    Comparison, both=st.integers(0, 3000), wins=st.integers(0, 40), losses=st.integers(0, 40), neither=st.integers(0, 100),
)


@pytest.mark.parametrize(("wins", "losses", "p_value"), [
    (0, 0, 1.0),
    (0, 1, 1 / 2),
    (1, 1, 3 / 4),
    (1, 3, 5 / 16),
    (0, 5, 1 / 32),
    (3, 12, 576 / 32768),
])
def test_the_p_value_is_that_of_a_fair_coin(wins: int, losses: int, p_value: float) -> None:
    assert Comparison(180, wins, losses, 2).p_value == pytest.approx(p_value, rel=1e-12)


def test_thousands_of_decided_pictures_are_counted_exactly() -> None:
    assert Comparison(0, 1000, 1000, 0).p_value == pytest.approx(0.5 + 0.5 * 0.017839, abs=1e-6)  # binomial(2000, 1000) / 2**2000
    assert 0 < Comparison(0, 400, 1600, 0).p_value < 1e-100


def test_the_bound_is_the_adjusted_wald_interval() -> None:
    """By hand: 2 pictures are added; (6 - 2) / 202 + 1.644854 * sqrt((6 + 2 - 16 / 202) / 202 / 202)."""
    assert Comparison(190, wins=1, losses=5, neither=4).loss_at_most == pytest.approx(0.019802 + 1.644854 * 0.013931, abs=1e-5)


@pytest.mark.parametrize(("comparison", "verdict"), [
    (Comparison(198, 0, 0, 2), "no_worse"),
    (Comparison(196, 2, 2, 0), "no_worse"),
    (Comparison(190, 9, 0, 1), "no_worse"),
    (Comparison(196, 0, 2, 2), "worse"),  # not significant, and yet not shown to be as good
    (Comparison(150, 5, 40, 5), "worse"),
    (Comparison(1990, 4, 6, 0), "no_worse"),  # of 2,000, two pictures fewer: less than half a point is lost
    (Comparison(1960, 10, 20, 10), "worse"),
    (Comparison(1995, 0, 5, 0), "worse"),  # less than half a point, but no chance
    (Comparison(MIN_PICTURES - 2, 1, 0, 0), "not_comparable"),
    (Comparison(MIN_PICTURES - 1, 1, 0, 0), "no_worse"),
    (Comparison(0, 0, 0, 0), "not_comparable"),
])
def test_the_burden_of_proof_is_the_challengers(comparison: Comparison, verdict: str) -> None:
    assert comparison.verdict == verdict


@given(COUNTS)
def test_one_more_picture_lost_never_makes_a_challenger_good(comparison: Comparison) -> None:
    worse = Comparison(comparison.both, comparison.wins, comparison.losses + 1, comparison.neither)
    assert worse.p_value <= comparison.p_value
    if comparison.verdict == "worse":
        assert worse.verdict == "worse"


@given(COUNTS)
def test_what_is_written_down_is_read_again(comparison: Comparison) -> None:
    fields = comparison.to_dict()
    assert Comparison.from_dict(fields) == comparison
    difference = fields["accuracy"]["challenger"] - fields["accuracy"]["champion"]
    assert difference * max(comparison.pictures, 1) == pytest.approx(comparison.wins - comparison.losses, abs=1e-6)


def test_answers_are_counted_by_who_was_right() -> None:
    answers = [(True, True)] * 4 + [(True, False)] * 3 + [(False, True)] * 2 + [(False, False)]
    assert Comparison.of(answers) == Comparison(both=4, wins=3, losses=2, neither=1)
