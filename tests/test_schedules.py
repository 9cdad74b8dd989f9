"""schedules: the closed forms, step by step."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catdog.schedules import learning_rate


def test_warm_up_rises_in_equal_parts_and_the_cosine_ends_at_zero() -> None:
    rates = [learning_rate(step, schedule="cosine", highest=2.0, warmup_steps=4, steps=12) for step in range(13)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[4] == 2.0 and rates[8] == pytest.approx(1.0) and rates[12] == pytest.approx(0.0)


def test_without_a_schedule_the_rate_stays() -> None:
    assert {learning_rate(step, schedule="constant", highest=0.3, warmup_steps=0, steps=5) for step in range(9)} == {0.3}


def test_steps_go_down_by_the_factor() -> None:
    rates = [learning_rate(step, schedule="step", highest=1.0, warmup_steps=0, steps=9, step_size=3, step_factor=0.1) for step in range(9)]
    assert rates == pytest.approx([1.0] * 3 + [0.1] * 3 + [0.01] * 3)


@given(
    step=st.integers(0, 500), steps=st.integers(1, 400), warmup=st.integers(0, 300),
    schedule=st.sampled_from(["cosine", "step", "constant"]),
)
def test_no_rate_is_above_the_highest_or_below_zero(step: int, steps: int, warmup: int, schedule: str) -> None:
    rate = learning_rate(step, schedule=schedule, highest=0.5, warmup_steps=warmup, steps=steps, step_size=7, step_factor=0.5)
    assert 0 <= rate <= 0.5 and math.isfinite(rate)
