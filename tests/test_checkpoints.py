"""checkpoints: whole or not there, and what comes back is bit for bit what went in."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import AdamW, Optimizer

from catdog import checkpoints
from catdog.errors import CorruptCheckpoint


def trained(steps: int, seed: int = 0) -> tuple[nn.Module, Optimizer]:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))
    optimizer = AdamW(network.parameters(), lr=0.1)
    step(network, optimizer, steps)
    return network, optimizer


def step(network: nn.Module, optimizer: Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        network(torch.randn(3, 4)).square().sum().backward()
        optimizer.step()


def save(folder: Path, number: int, *, fence: int = 1, best_step: int | None = None) -> Path:
    network, optimizer = trained(1, seed=number)
    state = {"step": number, "best_step": number if best_step is None else best_step}
    return checkpoints.save(folder, fence=fence, network=network, optimizer=optimizer, state=state)


def test_a_restored_run_goes_on_as_the_uninterrupted_one(tmp_path: Path) -> None:
    network, optimizer = trained(3)
    path = checkpoints.save(tmp_path, fence=1, network=network, optimizer=optimizer, state={"step": 3})
    step(network, optimizer, 4)  # dropout and randn draw from the generator that was saved

    resumed, its_optimizer = trained(0, seed=99)
    checkpoints.restore(checkpoints.load(path), network=resumed, optimizer=its_optimizer)
    step(resumed, its_optimizer, 4)
    for name, value in network.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_latest_is_the_one_with_the_most_steps_of_any_fence(tmp_path: Path) -> None:
    save(tmp_path, 9, fence=1)
    save(tmp_path, 1000, fence=1)
    save(tmp_path, 20, fence=2)
    found = checkpoints.latest(tmp_path, fence=2)
    assert found is not None and found.step == 1000
    assert checkpoints.latest(tmp_path / "nothing", fence=1) is None


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_flipped_bit_anywhere_is_found_and_the_one_before_is_used(tmp_path: Path, name: str, where: float, bit: int) -> None:
    folder = tmp_path / "checkpoints"
    shutil.rmtree(folder, ignore_errors=True)
    save(folder, 1)
    newest = save(folder, 2)
    data = bytearray((newest / name).read_bytes())
    data[int(where * len(data))] ^= 1 << bit
    (newest / name).write_bytes(data)
    found = checkpoints.latest(folder, fence=1)
    assert found is not None and found.step == 1
    assert newest.with_name("step-0000002.corrupt").is_dir()


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json"])
def test_a_save_that_was_killed_half_way_does_not_exist(tmp_path: Path, name: str) -> None:
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    (newest / name).unlink()
    found = checkpoints.latest(tmp_path, fence=2)
    assert found is not None and found.step == 1


def test_keep_removes_the_others(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        save(tmp_path, number)
    checkpoints.keep(tmp_path, {1, 3}, fence=1)
    assert sorted(path.name for path in (tmp_path / "1").iterdir()) == ["step-0000001", "step-0000003"]
    assert checkpoints.at(tmp_path, 1).step == 1
    with pytest.raises(CorruptCheckpoint, match="step 2"):
        checkpoints.at(tmp_path, 2)


def test_a_lost_attempt_that_still_breathes_cannot_touch_its_successors(tmp_path: Path) -> None:
    save(tmp_path, 120, fence=1)
    ahead = [save(tmp_path, 500, fence=2), save(tmp_path, 600, fence=2)]
    unfinished = save(tmp_path, 700, fence=2)
    (unfinished / "MANIFEST.json").unlink()
    checkpoints.keep(tmp_path, {120}, fence=1)
    found = checkpoints.latest(tmp_path, fence=1)
    assert found is not None and found.step == 600
    assert all(path.is_dir() for path in (*ahead, unfinished))


def inherited(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.glob("*/*"))


def spoil(path: Path) -> None:
    """In place of the old bytes: a flip in place would also be one in every other name of the file."""
    weights = path / "weights.safetensors"
    data = weights.read_bytes()[:-1] + b"x"
    weights.unlink()
    weights.write_bytes(data)


@pytest.mark.parametrize("links", [True, False])
def test_a_resumed_run_inherits_the_newest_and_the_best_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EXDEV, "another file system")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    old, new = tmp_path / "old", tmp_path / "run" / "checkpoints"
    save(old, 10)
    save(old, 20, best_step=10, fence=2)
    newest = save(old, 30, best_step=20, fence=3)
    found = checkpoints.inherit(old, new)
    assert found == checkpoints.load(new / "0" / "step-0000030") and found.state == checkpoints.load(newest).state
    assert inherited(new) == ["0/step-0000020", "0/step-0000030"] and checkpoints.at(new, 20).state["best_step"] == 10
    assert [path.name for path in new.parent.iterdir()] == ["checkpoints"], "nothing unfinished is left"
    weights = found.folder / "weights.safetensors"
    assert weights.samefile(newest / weights.name) is links and weights.stat().st_mode == (newest / weights.name).stat().st_mode
    shutil.rmtree(old)
    assert checkpoints.load(found.folder) == found


def test_one_that_is_the_best_itself_or_knows_of_none_is_inherited_alone(tmp_path: Path) -> None:
    save(tmp_path / "one", 10)
    save(tmp_path / "one", 20)
    save(tmp_path / "other", 3, best_step=0)
    for name, there in (("one", "0/step-0000020"), ("other", "0/step-0000003")):
        checkpoints.inherit(tmp_path / name, tmp_path / name / "new")
        assert inherited(tmp_path / name / "new") == [there]


def test_a_run_that_has_a_checkpoint_inherits_none(tmp_path: Path) -> None:
    save(tmp_path / "old", 20)
    own = save(tmp_path / "new", 5)
    assert checkpoints.inherit(tmp_path / "old", tmp_path / "new").folder == own
    assert inherited(tmp_path / "new") == ["1/step-0000005"]


def test_where_the_newest_or_its_best_is_broken_the_one_before_is_inherited(tmp_path: Path) -> None:
    old = tmp_path / "old"
    save(old, 10)
    newest, best = save(old, 40, best_step=30), save(old, 30)
    spoil(best)
    assert checkpoints.inherit(old, tmp_path / "one").step == 10, "40 without the weights of its best epoch could not be finished"
    save(old, 30)
    spoil(newest)
    assert checkpoints.inherit(old, tmp_path / "two").step == 30
    assert inherited(old) == ["1/step-0000010", "1/step-0000030", "1/step-0000040"], "the old run is only looked at"


def test_nothing_is_inherited_where_nothing_is_valid(tmp_path: Path) -> None:
    spoil(save(tmp_path / "old", 10))
    for name in ("old", "nothing"):
        with pytest.raises(CorruptCheckpoint, match=r"run that is resumed\. Received: none") as caught:
            checkpoints.inherit(tmp_path / name, tmp_path / "new")
        assert "Start a new training" in caught.value.remedy and not (tmp_path / "new").exists()


def test_an_inheritance_that_broke_afterwards_is_made_again(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    save(old, 10)
    spoil(checkpoints.inherit(old, new).folder)
    assert checkpoints.latest(new, fence=-1) is None
    assert checkpoints.inherit(old, new).step == 10 and inherited(new) == ["0/step-0000010"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"], "neither the broken one nor anything unfinished is left"


@pytest.mark.parametrize("turn", range(9))
def test_an_inheritance_that_ends_half_way_has_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turn: int) -> None:
    """Both checkpoints or none: with the best alone a run would go on from there, and do the epochs since again."""
    old, new = tmp_path / "old", tmp_path / "new"
    save(old, 10)
    save(old, 20, best_step=10)
    done: list[Path] = []
    link = os.link

    def full(source: Path, target: Path) -> None:
        if len(done) == turn:
            raise KeyboardInterrupt
        done.append(target)
        link(source, target)

    monkeypatch.setattr(os, "link", full)
    if turn < 8:
        with pytest.raises(KeyboardInterrupt):
            checkpoints.inherit(old, new)
        assert checkpoints.latest(new, fence=-1) is None and [path.name for path in tmp_path.iterdir()] == ["old"]
        monkeypatch.setattr(os, "link", link)
    assert checkpoints.inherit(old, new).step == 20
    assert inherited(new) == ["0/step-0000010", "0/step-0000020"]
    assert all(target.name == "MANIFEST.json" for target in done[3::4]), "the manifest comes last"
