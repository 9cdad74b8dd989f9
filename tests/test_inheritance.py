"""inheritance: a resumed run has all of what went before, of its own kind only, and nothing of the test split."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from catdog import checkpoints, epochs, inheritance
from catdog.config import TrainConfig
from catdog.errors import BadConfig, CorruptCheckpoint, DatasetChanged

CONFIG = TrainConfig.parse({"dataset": "ds_" + "0" * 32, "epochs": 5})


def save(run: Path, number: int, *, epoch: int, best_step: int | None = None, fence: int = 1) -> Path:
    torch.manual_seed(number)
    network = nn.Linear(2, 2)
    state = {"step": number, "epoch": epoch, "best_step": number if best_step is None else best_step}
    return checkpoints.save(run / "checkpoints", fence=fence, network=network, optimizer=AdamW(network.parameters()), state=state)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A run that was stopped in its fourth epoch; the second was the best."""
    run = tmp_path / "old"
    CONFIG.write(run)
    (run / "dataset.json").write_text(json.dumps({"id": CONFIG.dataset, "fingerprint": "f" * 64}))
    (run / "features").mkdir()
    for name in ("train.safetensors", "val.safetensors", "test.safetensors", "test-1.safetensors", "backbone.onnx", "notes.txt"):
        (run / "features" / name).write_text(f"{name} of old")
    (run / "metrics.jsonl").write_text("".join(json.dumps({"kind": "epoch", "epoch": number}) + "\n" for number in (1, 2, 3, 4)))
    save(run, 20, epoch=2)
    save(run, 30, epoch=3, best_step=20)
    (run / "package").mkdir()
    (run / "metrics.json").write_text("{}")
    return run


def take(old: Path, new: Path, *, fingerprint: str = "f" * 64, **changes: Any) -> None:
    new.mkdir(exist_ok=True)
    inheritance.take(old, new, CONFIG.resumed(changes), fingerprint=fingerprint)


def left(run: Path) -> list[str]:
    return sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())


def test_everything_but_the_test_split_is_taken_over(old: Path, tmp_path: Path) -> None:
    before, new = left(old), tmp_path / "new"
    take(old, new, epochs=9)
    files = ("MANIFEST.json", "optimizer.safetensors", "state.json", "weights.safetensors")
    assert left(new) == sorted([
        *(f"checkpoints/0/step-{step:07d}/{name}" for step in (20, 30) for name in files),
        "features/backbone.onnx", "features/train.safetensors", "features/val.safetensors", "metrics.jsonl",
    ])
    assert (new / "features/val.safetensors").read_text() == "val.safetensors of old"
    assert [epoch["epoch"] for epoch in epochs.read(new)] == [1, 2, 3], "the fourth is done again"
    assert left(old) == before


def test_the_next_attempt_goes_on_from_its_own_checkpoint_also_when_the_old_run_has_gone(old: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    take(old, new)
    (new / "metrics.jsonl").write_text("mine")
    shutil.rmtree(old)
    save(new, 40, epoch=4)
    take(old, new)
    assert (new / "metrics.jsonl").read_text() == "mine"
    found = checkpoints.latest(new / "checkpoints", fence=-1)
    assert found is not None and found.step == 40


def test_an_attempt_that_was_killed_before_the_epochs_came_is_made_good(old: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    take(old, new)
    (new / "metrics.jsonl").unlink()
    take(old, new)
    assert [epoch["epoch"] for epoch in epochs.read(new)] == [1, 2, 3]


def test_features_that_are_there_are_left_as_they_are(old: Path, tmp_path: Path) -> None:
    mine = tmp_path / "new" / "features" / "val.safetensors"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    take(old, tmp_path / "new")
    assert mine.read_text() == "mine"


def test_another_data_set_is_refused(old: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetChanged, match=r"fffffff.*Received: 1111111"):
        take(old, tmp_path / "new", fingerprint="1" * 64)
    (old / "dataset.json").unlink()
    with pytest.raises(DatasetChanged):
        take(old, tmp_path / "new")
    assert left(tmp_path / "new") == []


def test_another_network_is_refused(old: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    other = TrainConfig.parse(CONFIG.model_dump() | {"seed": 7})
    with pytest.raises(BadConfig, match="seed: expected 0, as in the run that is resumed") as caught:
        inheritance.take(old, tmp_path / "new", other, fingerprint="f" * 64)
    assert caught.value.field == "seed" and left(tmp_path / "new") == []


def test_a_run_without_a_whole_checkpoint_cannot_be_gone_on_from(old: Path, tmp_path: Path) -> None:
    assert inheritance.has_checkpoint(old)
    checkpoint, broken = sorted((old / "checkpoints" / "1").iterdir())
    broken.rename(broken.with_name(f"{broken.name}.corrupt"))
    assert inheritance.has_checkpoint(old)
    (checkpoint / "MANIFEST.json").unlink()
    assert not inheritance.has_checkpoint(old) and not inheritance.has_checkpoint(tmp_path / "nothing")
    with pytest.raises(CorruptCheckpoint, match="Received: none") as caught:
        take(old, tmp_path / "new")
    assert "clone" in caught.value.remedy
