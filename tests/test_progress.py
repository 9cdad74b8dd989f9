"""progress: one JSON line each, and nothing else is taken for one. display: what people are shown of it."""

import math
from io import StringIO

import pytest
from rich.console import Console

from catdog.display import Bars, figures
from catdog.progress import MAX_LINE_BYTES, Progress, fits


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


def test_figures_by_label_are_not_put_in_a_line_that_would_be_dropped() -> None:
    by_label = {f"label {number}": {"images": 9, "precision": 1 / 3, "recall": 1 / 3, "f1": 1 / 3} for number in range(1000)}
    assert not fits(by_label) and fits(dict(list(by_label.items())[:50]))


def shown(*said: Progress) -> str:
    console = Console(file=StringIO(), width=200)
    with Bars(console) as bars:
        for progress in said:
            bars.show(progress)
    printed = console.file
    assert isinstance(printed, StringIO)
    return printed.getvalue()


def test_people_are_told_which_pictures_are_used() -> None:
    counts = {"train": {"cat": 90, "dog": 10}, "val": {"cat": 4, "dog": 4}, "test": {"cat": 4, "dog": 5}}
    pictures = {"balance": "sampler", "images": {"train": 100, "val": 8, "test": 9}, "counts": counts}
    assert shown(Progress("phase", phase="preparing", result={"pictures": pictures})) == (
        "phase: preparing\npictures: train 100 (cat 90, dog 10), val 8 (cat 4, dog 4), test 9 (cat 4, dog 5); balance sampler\n"
    )
    del pictures["counts"]  # as it is where they would not fit in a line
    assert "pictures: train 100, val 8, test 9; balance sampler" in shown(Progress("phase", result={"pictures": pictures}))


def test_people_are_told_of_each_label_unless_there_are_many() -> None:
    one = {"images": 2, "precision": 1.0, "recall": 0.5, "f1": 2 / 3}
    metrics = {"images": 4, "loss": 0.1, "accuracy": 0.75, "balanced_accuracy": 0.5, "by_label": {"cat": one}}
    assert list(figures("test", metrics)) == [
        "test: accuracy 0.7500, balanced accuracy 0.5000 on 4 images", "  cat: precision 1.0000, recall 0.5000, F1 0.6667 on 2 images",
    ]
    assert len(list(figures("test", metrics | {"by_label": {str(number): one for number in range(50)}}))) == 1
