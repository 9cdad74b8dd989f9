"""epochs: what metrics.jsonl says of a run, whatever killed its writer."""

import json
from pathlib import Path
from typing import Any

import pytest

from catdog import epochs
from catdog.progress import MAX_LINE_BYTES


def line(epoch: Any, loss: float = 0.5, **fields: Any) -> str:
    return json.dumps({"kind": "epoch", "phase": "training", "epoch": epoch, "val_loss": loss, **fields}) + "\n"


def told(folder: Path) -> list[tuple[int, float]]:
    return [(epoch["epoch"], epoch["val_loss"]) for epoch in epochs.read(folder)]


def written(folder: Path, text: str) -> Path:
    (folder / "metrics.jsonl").write_text(text)
    return folder


def test_a_run_without_an_epoch_has_none(tmp_path: Path) -> None:
    assert epochs.read(tmp_path) == epochs.read(tmp_path / "nothing") == epochs.read(written(tmp_path, "")) == []


def test_an_epoch_is_all_its_line_says(tmp_path: Path) -> None:
    assert epochs.read(written(tmp_path, line(1, val_f1=[0.5, 1]))) == [json.loads(line(1, val_f1=[0.5, 1]))]


def test_an_attempt_that_went_back_has_undone_what_was_said_after(tmp_path: Path) -> None:
    assert told(written(tmp_path, line(1) + line(2) + line(3) + line(2, 0.25))) == [(1, 0.5), (2, 0.25)]
    assert told(written(tmp_path, line(1) + line(2) + line(2, 0.25) + line(3, 0.125))) == [(1, 0.5), (2, 0.25), (3, 0.125)]


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_line_whose_writer_was_killed_is_left_out_and_the_next_one_is_not(tmp_path: Path, cut: int) -> None:
    assert told(written(tmp_path, line(1) + line(2)[:cut])) == [(1, 0.5)]
    assert told(written(tmp_path, line(1) + line(2)[:cut] + line(2, 0.25))) == [(1, 0.5), (2, 0.25)]


@pytest.mark.parametrize("bad", [
    "[]\n", '"x"\n', "7\n", "\n", '{"kind": "step", "epoch": 2}\n', line("2"), line(True, 0.25), line(None), line(2, float("nan")),
    line(2, text="x" * MAX_LINE_BYTES), "\x00\n", "[" * 10_000 + "\n",
])
def test_what_is_no_epoch_is_left_out(tmp_path: Path, bad: str) -> None:
    assert told(written(tmp_path, line(1) + bad + line(3))) == [(1, 0.5), (3, 0.5)]


def test_of_an_endless_file_only_the_end_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epochs, "MAX_BYTES", 2 * len(line(1)) + 10)
    assert told(written(tmp_path, "".join(line(number) for number in range(1, 10)))) == [(8, 0.5), (9, 0.5)]


def test_a_resumed_run_begins_with_the_epochs_up_to_its_checkpoint(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    epochs.inherit(old, new, upto=3)
    assert (new / "metrics.jsonl").read_text() == ""
    written(old, line(1) + line(2) + line(2, 0.25) + line(3) + line(4))
    epochs.inherit(old, new, upto=3)
    assert (new / "metrics.jsonl").read_text() == line(1) + line(2, 0.25) + line(3)
