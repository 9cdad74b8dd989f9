"""device: what is chosen, and the reason for it."""

import os
from pathlib import Path

import pytest
import torch

from catdog import device
from catdog.device import Device, Gpu, Lack, decide, examine, has_kernels
from catdog.errors import BadConfig, NoDevice
from catdog.settings import Settings

HAS_GPU = torch.cuda.is_available()
WHEEL = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
H100 = Gpu("NVIDIA H100", (9, 0), WHEEL)
NONE = Lack("no CUDA device answers")


def settings(machine: str = "auto", *, fallback: bool = False) -> Settings:
    return Settings.load(device=machine, cpu_fallback=fallback)


def test_cpu_is_chosen_when_asked_for_and_says_so() -> None:
    chosen = device.choose("cpu", settings())
    assert (chosen.name, chosen.reason) == ("cpu", "the config asks for the CPU")
    assert chosen.threads == torch.get_num_threads() == device.cores() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(("told", "threads"), [({}, 8), ({"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4"}, 4), ({"LOCAL_WORLD_SIZE": "9"}, 1)])
def test_ranks_part_the_cores_of_their_own_machine(monkeypatch: pytest.MonkeyPatch, told: dict[str, str], threads: int) -> None:
    """Two machines of two ranks each: a rank has half of its machine's cores, not a quarter."""
    monkeypatch.setattr(device, "cores", lambda: 8)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    before = torch.get_num_threads()
    try:
        assert device.choose("cpu", settings()).threads == torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU here")
def test_without_a_gpu_auto_takes_the_cpu_and_says_why_and_cuda_is_refused() -> None:
    assert device.choose("auto", settings()).name == "cpu"
    assert "CUDA" in device.choose("auto", settings()).reason
    with pytest.raises(BadConfig, match="Received") as caught:
        device.choose("cuda", settings())
    assert caught.value.field == "device"


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU here")
def test_a_machine_that_demands_a_gpu_and_has_none_fails_or_falls_back() -> None:
    with pytest.raises(NoDevice, match="CATDOG_DEVICE=cuda") as caught:
        device.choose("auto", settings("cuda"))
    assert caught.value.code == "device_error" and "CATDOG_CPU_FALLBACK=1" in caught.value.remedy
    fallen = device.choose("auto", settings("cuda", fallback=True))
    assert fallen.name == "cpu" and "CATDOG_CPU_FALLBACK=1" in fallen.reason


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="there is no GPU here")
def test_with_a_gpu_auto_takes_it_and_names_it() -> None:
    chosen = device.choose("auto", settings())
    assert chosen.name == "cuda" and torch.cuda.get_device_name() in chosen.reason
    assert device.choose("auto", settings("cpu")).name == "cpu"
    assert any(provider[0] == "CUDAExecutionProvider" for provider in device.providers("auto"))


@pytest.mark.parametrize(("wanted", "machine", "fallback", "found", "name", "words"), [
    ("auto", "auto", False, H100, "cuda", "a GPU is there: NVIDIA H100, compute capability 9.0"),
    ("cuda", "auto", False, H100, "cuda", "the config asks for a GPU"),
    ("cpu", "auto", False, H100, "cpu", "the config asks"),
    ("auto", "auto", False, NONE, "cpu", "no CUDA device answers; 3 CPU threads"),
    ("auto", "cuda", False, H100, "cuda", "NVIDIA H100"),
    ("cpu", "cuda", False, NONE, "cpu", "the config asks"),
    ("auto", "cuda", True, NONE, "cpu", "CATDOG_CPU_FALLBACK=1 and no GPU to compute on: no CUDA device answers"),
    ("cuda", "cuda", True, NONE, "cpu", "CATDOG_CPU_FALLBACK=1"),
    ("auto", "cuda", True, H100, "cuda", "NVIDIA H100"),
    ("auto", "cpu", True, H100, "cpu", "CATDOG_DEVICE=cpu"),
])
def test_what_is_wanted_and_what_the_machine_allows(
    wanted: str, machine: str, fallback: bool, found: Gpu | Lack, name: str, words: str,
) -> None:
    chosen = decide(wanted, settings(machine, fallback=fallback), found, threads=3)
    assert isinstance(chosen, Device) and chosen.name == name and words in chosen.reason


@pytest.mark.parametrize(("wanted", "machine", "found", "error"), [
    ("cuda", "auto", NONE, BadConfig), ("cuda", "cpu", H100, BadConfig), ("cuda", "cuda", NONE, NoDevice), ("auto", "cuda", NONE, NoDevice),
])
def test_what_cannot_be_had_is_refused_with_a_remedy(wanted: str, machine: str, found: Gpu | Lack, error: type[Exception]) -> None:
    with pytest.raises(error, match="Received: ") as caught:
        decide(wanted, settings(machine), found, threads=1)
    assert isinstance(caught.value, (BadConfig, NoDevice)) and "device" in caught.value.remedy.lower()


@pytest.mark.parametrize(("card", "capability", "architectures", "runs"), [
    ("GTX 1080", (6, 1), WHEEL, False),
    ("V100", (7, 0), WHEEL, False),
    ("T4", (7, 5), WHEEL, True),
    ("A100", (8, 0), WHEEL, True),
    ("RTX 3090", (8, 6), WHEEL, True),
    ("RTX 3090, from an older binary of its generation", (8, 6), ("sm_80",), True),
    ("RTX 4090", (8, 9), WHEEL, True),
    ("H100", (9, 0), WHEEL, True),
    ("B300", (10, 3), WHEEL, True),
    ("RTX 5090", (12, 0), WHEEL, True),
    ("A100, from a newer binary", (8, 0), ("sm_86",), False),
    ("H100, from another generation", (9, 0), ("sm_80", "sm_86"), False),
    ("H100, from older PTX", (9, 0), ("sm_80", "compute_80"), True),
    ("V100, from newer PTX", (7, 0), ("compute_80",), False),
    ("H100, from its own special binary", (9, 0), ("sm_90a",), True),
    ("RTX 5090, from special PTX", (12, 0), ("sm_90a", "compute_90a"), False),
    ("B300, from a special binary of B200", (10, 3), ("sm_100a",), False),
    ("B300, from its family's", (10, 3), ("sm_100f",), True),
    ("RTX 5090, from another family's", (12, 0), ("sm_100f", "compute_100f"), False),
    ("any, from nothing that is known", (9, 0), ("gfx90a", ""), False),
])
def test_which_cards_the_kernels_of_a_wheel_run_on(
    card: str, capability: tuple[int, int], architectures: tuple[str, ...], runs: bool,
) -> None:
    assert has_kernels(Gpu(card, capability, architectures)) is runs


def test_the_kernels_of_this_torch_are_named_as_expected() -> None:
    known = torch._C._cuda_getArchFlags() if torch.version.cuda else None
    assert known is None or has_kernels(Gpu("H100", (9, 0), tuple(known.split())))


def test_the_cpu_image_is_not_asked_for_a_gpu(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    assert examine(settings(), root=tmp_path) == ("the CPU (no NVIDIA driver is visible)", [])
    (tmp_path / "dev" / "nvidiactl").touch()
    assert examine(settings("cpu"), root=tmp_path) == ("the CPU (CATDOG_DEVICE=cpu)", [])


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU here")
def test_a_gpu_that_is_no_use_is_a_problem_of_fitting_weight(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidiactl").touch()
    for machine, fallback, severity in (("auto", False, "warning"), ("cuda", True, "warning"), ("cuda", False, "error")):
        text, problems = examine(settings(machine, fallback=fallback), root=tmp_path)
        assert [problem.severity for problem in problems] == [severity]
        assert "CUDA" in text and "CATDOG_CPU_FALLBACK=1" in problems[0].line() and "\n" not in problems[0].line()


def test_a_service_that_lacks_its_gpu_says_so(tmp_path: Path) -> None:
    assert device.shortfalls(settings(), root=tmp_path) == device.shortfalls(settings("cpu"), root=tmp_path) == []
    assert "CATDOG_DEVICE=cuda" in device.shortfalls(settings("cuda"), root=tmp_path)[0]
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidiactl").touch()
    assert device.shortfalls(settings("cuda"), root=tmp_path) == []


def test_onnx_runtime_computes_on_the_cpu_where_there_is_no_gpu_or_none_is_wanted() -> None:
    assert device.providers("cpu") == ["CPUExecutionProvider"]
    if not device.is_visible():
        assert device.providers("auto") == device.providers("cuda") == ["CPUExecutionProvider"]


def test_the_random_generators_come_back() -> None:
    torch.manual_seed(3)
    state = device.random_state()
    first = torch.rand(5)
    device.restore_random_state(state)
    assert torch.equal(first, torch.rand(5))


def test_a_gpu_run_whose_backbone_is_left_to_the_cpu_says_so() -> None:
    assert device.lack_of_sessions(device.Device("cpu", "", 1)) == ""
    if device.providers("cuda") == device.providers("cpu"):
        assert "backbone is run on the CPU" in device.lack_of_sessions(device.Device("cuda", "", 1))
