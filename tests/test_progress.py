"""progress: one JSON line each, and nothing else is taken for one."""

import math

import pytest

from catdog.progress import MAX_LINE_BYTES, Progress


def test_a_line_says_what_applies_and_comes_back_the_same() -> None:
    progress = Progress("epoch", phase="training", epoch=2, val_loss=0.25, result={"a": [1]})
    assert progress.to_json() == '{"kind": "epoch", "phase": "training", "epoch": 2, "val_loss": 0.25, "result": {"a": [1]}}'
    assert Progress.from_json(progress.to_json()) == progress


@pytest.mark.parametrize(
    "line", ["", "[]", "42", '{"kind": "song"}', '{"epoch": 1}', '{"kind": "step", "tune": 1}', '{"kind": ["step"]}', "\xff"],
)
def test_anything_else_is_refused(line: str) -> None:
    with pytest.raises(ValueError):
        Progress.from_json(line)


def test_a_line_has_an_upper_size() -> None:
    with pytest.raises(ValueError, match="at most"):
        Progress.from_json('{"kind": "step", "message": "' + "x" * MAX_LINE_BYTES + '"}')


def test_a_number_that_json_does_not_know_is_not_written() -> None:
    with pytest.raises(ValueError):
        Progress("step", train_loss=math.nan).to_json()
