"""Axes hold whatever floats there are, and never turn an order round."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catdog.axes import Axis, finite, written

ANY = st.floats(allow_nan=False, allow_infinity=False)
POSITIVE = st.floats(min_value=0, exclude_min=True, allow_nan=False, allow_infinity=False)


@given(st.lists(ANY, min_size=1, max_size=20), st.booleans(), st.sampled_from([(10.0, 90.0), (90.0, 10.0)]))
def test_a_larger_value_never_stands_nearer_to_the_start(values: list[float], whole: bool, ends: tuple[float, float]) -> None:
    axis = Axis.over(values, *ends, log=None, whole=whole)
    places = [axis.at(value) for value in sorted(values)]
    assert all(min(ends) <= place <= max(ends) for place in places)
    assert all((after - before) * (ends[1] - ends[0]) >= 0 for before, after in pairwise(places))


@given(st.lists(POSITIVE, min_size=1, max_size=20))
def test_the_same_on_a_logarithmic_axis(values: list[float]) -> None:
    axis = Axis.over(values, 10, 90, log=True)
    places = [axis.at(value) for value in sorted(values)]
    assert all(10 <= place <= 90 for place in places) and places == sorted(places)


@given(st.lists(ANY, min_size=1, max_size=5), st.sampled_from([False, True, None]), st.booleans())
def test_ticks_are_few_finite_different_and_in_order(values: list[float], log: bool | None, whole: bool) -> None:
    values = [abs(value) or 1.0 for value in values] if log else values
    ticks = Axis.over(values, 0, 100, log=log, whole=whole).ticks()
    assert len(ticks) <= 9 and all(map(math.isfinite, ticks))
    assert all(before < after for before, after in pairwise(ticks))


@pytest.mark.parametrize(("low", "high", "ticks"), [
    (0.0, 1.0, ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
    (0.13, 0.76, ["0.2", "0.3", "0.4", "0.5", "0.6", "0.7"]),
    (-3.0, 41.0, ["0", "10", "20", "30", "40"]),
    (7.0, 7.0, ["7"]),
    (1e-6, 5e-6, ["1e-6", "2e-6", "3e-6", "4e-6", "5e-6"]),
    (1.5e300, 4e300, ["1.5e300", "2e300", "2.5e300", "3e300", "3.5e300", "4e300"]),
])
def test_ticks_are_round(low: float, high: float, ticks: list[str]) -> None:
    assert [written(value) for value in Axis(low, high, 0, 100).ticks()] == ticks


def test_logarithmic_ticks() -> None:
    assert Axis(1e-6, 1, 0, 100, log=True).ticks(8) == [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1]
    assert Axis(0.1, 3, 0, 100, log=True).ticks(6) == [0.1, 0.2, 0.5, 1, 2]
    assert Axis(0.31, 0.39, 0, 100, log=True).ticks() == pytest.approx([0.32, 0.34, 0.36, 0.38])
    assert Axis(1, 100, 0, 100, log=True).at(10) == pytest.approx(50)


def test_epochs_get_whole_ticks() -> None:
    assert Axis(1, 3, 0, 100, whole=True).ticks() == [1, 2, 3]


def test_what_differs_by_rounding_alone_is_drawn_as_equal() -> None:
    axis = Axis.over([0.3, 0.1 + 0.2], 0, 100)
    assert axis.at(0.3) == axis.at(0.1 + 0.2) == 50 and axis.ticks() == [0.3]


def test_very_different_losses_choose_a_logarithmic_axis() -> None:
    assert Axis.over([2.0, 0.001], 0, 100, log=None).log
    assert not Axis.over([2.0, 0.01], 0, 100, log=None).log
    assert not Axis.over([2.0, 0.0], 0, 100, log=None).log
    assert not Axis.over([], 0, 100, log=None).log


@pytest.mark.parametrize(("value", "number"), [
    (1, 1.0), (0.5, 0.5), (math.nan, None), (-math.inf, None), (None, None), ("1", None), (True, None), (10**400, None), ([1], None),
])
def test_what_can_be_drawn(value: object, number: float | None) -> None:
    assert finite(value) == number
