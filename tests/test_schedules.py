"""schedules: a table of steps, no network."""

import pytest

from catdog.schedules import learning_rate


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        ("cosine", 0, 0.25), ("cosine", 3, 1.0), ("cosine", 4, 1.0), ("cosine", 8, 0.5), ("cosine", 12, 0.0), ("cosine", 99, 0.0),
        ("constant", 0, 0.25), ("constant", 3, 1.0), ("constant", 12, 1.0),
    ],
)
def test_table(schedule: str, step: int, expected: float) -> None:
    assert learning_rate(step, schedule=schedule, highest=1.0, warmup_steps=4, steps=12) == pytest.approx(expected)


def test_without_warmup_the_first_step_is_the_highest() -> None:
    assert learning_rate(0, schedule="cosine", highest=0.3, warmup_steps=0, steps=10) == 0.3
