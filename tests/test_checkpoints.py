"""checkpoints: whole or not there, and what comes back is bit for bit what went in."""

import shutil
from pathlib import Path

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


def save(folder: Path, number: int, *, fence: int = 1) -> Path:
    network, optimizer = trained(1, seed=number)
    return checkpoints.save(folder, fence=fence, network=network, optimizer=optimizer, state={"step": number, "best_step": number})


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
