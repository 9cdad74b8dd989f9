"""device: what is chosen, and the reason for it."""

import os

import pytest
import torch

from catdog import device
from catdog.errors import BadConfig

HAS_GPU = torch.cuda.is_available()


def test_cpu_is_chosen_when_asked_for_and_says_so() -> None:
    chosen = device.choose("cpu")
    assert (chosen.name, chosen.reason) == ("cpu", "the config asks for the CPU")
    assert chosen.threads == torch.get_num_threads() == device.cores() <= len(os.sched_getaffinity(0))


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU here")
def test_without_a_gpu_auto_takes_the_cpu_and_says_why_and_cuda_is_refused() -> None:
    assert device.choose("auto").name == "cpu"
    assert "CUDA" in device.choose("auto").reason
    with pytest.raises(BadConfig, match="Received") as caught:
        device.choose("cuda")
    assert caught.value.field == "device"


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="there is no GPU here")
def test_with_a_gpu_auto_takes_it_and_names_it() -> None:
    chosen = device.choose("auto")
    assert chosen.name == "cuda" and torch.cuda.get_device_name() in chosen.reason


def test_the_random_generators_come_back() -> None:
    torch.manual_seed(3)
    state = device.random_state()
    first = torch.rand(5)
    device.restore_random_state(state)
    assert torch.equal(first, torch.rand(5))
