"""probe: the range test finds where learning begins, two devices are compared, and the network asked stays as it is."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from catdog import loop, probe
from catdog.errors import BadInput
from catdog.loaders import Split
from tests.test_loop import config, network, split, train

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def asked() -> Iterator[nn.Module]:
    """A network that must come out as it went in."""
    net = network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    yield net
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_the_proposed_rate_learns_and_the_curve_rises_through_the_rates(asked: nn.Module, tmp_path: Path) -> None:
    *_, found = probe.range_test(asked, split(64, 1), config(batch_size=16), labels=2, device="cpu")
    assert found.rates == sorted(found.rates) and found.rates[0] == probe.LOWEST and len(found.rates) == len(found.losses)
    assert found.proposed is not None and 1e-4 < found.proposed < 1
    lowest = min(found.losses)
    assert found.losses[0] > lowest, "at the lowest rate hardly anything is learnt"
    best = {}
    for rate in (probe.LOWEST, found.proposed):
        for _ in train(tmp_path / str(rate), learning_rate=rate, epochs=6, schedule="constant"):
            pass
        best[rate] = loop.best(tmp_path / str(rate)).state["best_value"]
    assert best[found.proposed] < best[probe.LOWEST]


def test_a_curve_that_diverges_is_not_followed_to_its_end() -> None:
    """Features of a hundred make a head diverge long before the highest rate."""
    values = 100 * torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    features = Split(torch.arange(8) % 2, lambda positions, _: values[positions])
    *before, found = probe.range_test(nn.Linear(3, 2), features, config(batch_size=4, optimizer="sgd"), labels=2, device="cpu")
    assert len(before) < probe.STEPS - 1 and found.losses[-1] > probe.DIVERGED * min(found.losses)


def test_where_nothing_is_learnt_nothing_is_proposed() -> None:
    assert probe._steepest([1e-3, 1e-2], [1.0, 2.0]) is None
    assert probe._steepest(list(range(40)), [float(number) for number in range(40)]) is None


def test_a_device_agrees_with_itself(asked: nn.Module) -> None:
    steps = list(probe.compare_devices(asked, split(16, 1), config(), labels=2, devices=("cpu", "cpu")))
    assert len(steps) == 3
    assert all(step.losses[0] == step.losses[1] and step.difference == 0 for step in steps)
    assert len({step.losses[0] for step in steps}) == 3, "the steps are real ones"


def test_a_device_that_does_not_answer_is_said(asked: nn.Module) -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU answers here")
    with pytest.raises(BadInput, match="does not answer") as caught:
        list(probe.compare_devices(asked, split(16, 1), config(), labels=2, devices=("cpu", "cuda")))
    assert "doctor system" in caught.value.remedy


@pytest.mark.gpu
def test_cpu_and_gpu_agree(asked: nn.Module) -> None:
    steps = list(probe.compare_devices(asked, split(16, 1), config(), labels=2, devices=("cpu", "cuda")))
    assert all(step.losses[0] == pytest.approx(step.losses[1], abs=1e-4) and step.difference < 1e-2 for step in steps)
