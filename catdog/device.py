"""choose, decide, examine, session, lanes, multiply_in, random_state, Device, Gpu: cpu or cuda, why. The only file that branches on it.

torch and onnxruntime are imported only inside the functions that ask them, so that service and worker can import this file.

    the config wants   CATDOG_DEVICE=auto      =cpu                 =cuda
    auto               a GPU that works, or    the CPU              the GPU; without one: the run fails (device_error),
                       the CPU                                      or the CPU where CATDOG_CPU_FALLBACK=1
    cpu                the CPU                 the CPU              the CPU
    cuda               the GPU, or the config  the config is        as for auto
                       is refused              refused
"""

import contextlib
import ctypes
import importlib.util
import json
import os
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catdog.errors import BadConfig, NoDevice
from catdog.machine import Machine, Problem
from catdog.settings import Settings, ranks_here

if TYPE_CHECKING:
    import torch
    from onnxruntime import InferenceSession
    from torch import Tensor, nn

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
SIGNS = ("dev/nvidiactl", "proc/driver/nvidia", "dev/dxg")
"""What a container or host with an NVIDIA driver has; the last one under Windows."""


COMPARED = ("cpu", "cuda")
"""What `catdog train --compare-devices` compares."""


@dataclass(frozen=True, slots=True)
class Device:
    """Where a run computes. Goes into the job record and the model package."""

    name: str
    """What torch calls it: cpu or cuda."""
    reason: str
    """Why this one."""
    threads: int
    """CPU threads for the arithmetic of one process."""

    @property
    def is_gpu(self) -> bool:
        """Whether it is none of the CPUs."""
        return self.name != "cpu"

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the job record."""
        return {"name": self.name, "reason": self.reason, "threads": self.threads}


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU that answers."""

    name: str
    capability: tuple[int, int]
    """NVIDIA's compute capability, (major, minor)."""
    architectures: tuple[str, ...]
    """What the kernels of the installed torch were compiled for: sm_90, compute_90, ..."""

    def __str__(self) -> str:
        return f"{self.name}, compute capability {self.capability[0]}.{self.capability[1]}"


@dataclass(frozen=True, slots=True)
class Lack:
    """Why there is no GPU to compute on, as half a sentence."""

    reason: str
    gpu: Gpu | None = None
    """The one that answers and for which the installed torch has no kernels."""


def cores() -> int:
    """CPUs this process may really use; os.cpu_count() knows neither cgroup nor affinity and would start sixteen threads on one CPU."""
    return Machine.look().cpus


def choose(wanted: str, settings: Settings) -> Device:
    """Choose where to compute and set this process up for it: threads, memory, kernels that repeat. `wanted` is auto, cpu or cuda.

    Several processes that train together on one machine part its cores among them.

    Raises:
        BadConfig, NoDevice: as `decide`.
    """
    import torch

    threads = max(1, cores() // ranks_here())
    torch.set_num_threads(threads)
    _keep_memory()
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False  # else float32 on a GPU is not what the golden logits are compared in
    looks = wanted != "cpu" and settings.device != "cpu"
    return decide(wanted, settings, find() if looks else Lack("nobody looked for a GPU"), threads=threads)


def _keep_memory() -> None:
    """Let glibc keep what one step frees for the next, instead of giving it back to the kernel and asking for it again.

    Each large activation is a mapping of its own otherwise, whose pages are all faulted in anew: nearly half of a step's time on the CPU
    (EfficientNet-Lite0, batch 32: 2.65 s of CPU time without, 1.34 s with; a tenth more memory at the peak). Other C libraries do as they
    like.
    """
    with contextlib.suppress(AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)


def decide(wanted: str, settings: Settings, found: Gpu | Lack, *, threads: int) -> Device:
    """What the config wants and this machine allows, given what was found.

    Raises:
        BadConfig: the config wants a GPU, and this machine is for the CPU, or is for any and has none.
        NoDevice: this machine is for a GPU, has none, and is not allowed to go on without.
    """
    if wanted == "cpu":
        return Device("cpu", "the config asks for the CPU", threads)
    if settings.device == "cpu":
        if wanted == "cuda":
            raise BadConfig(
                "device=cuda needs a machine with a GPU. Received: a worker that computes on the CPU (CATDOG_DEVICE=cpu).",
                field="device", remedy="Set device to auto or cpu, or start a worker with CATDOG_DEVICE=cuda.",
            )
        return Device("cpu", f"this machine computes on the CPU (CATDOG_DEVICE=cpu); {threads} CPU threads", threads)
    if isinstance(found, Gpu):
        asked = "the config asks for a GPU" if wanted == "cuda" else "a GPU is there"
        return Device("cuda", f"{asked}: {found}", threads)
    if settings.device == "cuda":
        if not settings.cpu_fallback:
            raise NoDevice(f"Expected a GPU to compute on (CATDOG_DEVICE=cuda). Received: {found.reason}.")
        return Device("cpu", f"CATDOG_CPU_FALLBACK=1 and no GPU to compute on: {found.reason}; {threads} CPU threads", threads)
    if wanted == "cuda":
        raise BadConfig(
            f"device=cuda needs a GPU. Received: {found.reason}.", field="device",
            remedy="Set device to auto or cpu, or look at the driver.",
        )
    return Device("cpu", f"{found.reason}; {threads} CPU threads", threads)


def find() -> Gpu | Lack:
    """The GPU that torch would take, or why there is none to compute on. Imports torch."""
    import torch

    if torch.version.cuda is None:
        return Lack("this torch is built without CUDA")
    if not torch.cuda.is_available():
        return Lack("no CUDA device answers")
    gpu = Gpu(torch.cuda.get_device_name(), torch.cuda.get_device_capability(), tuple(torch.cuda.get_arch_list()))
    return gpu if has_kernels(gpu) else Lack(f"{gpu}, for which this torch has no kernels ({' '.join(gpu.architectures)})", gpu)


def has_kernels(gpu: Gpu) -> bool:
    """Whether kernels compiled for such architectures run on this GPU.

    NVIDIA's rule (CUDA C++ Programming Guide, "Binary Compatibility" and "PTX Compatibility"): a binary (sm_86) runs on its own minor
    revision and later ones of the same major; PTX (compute_80) is compiled on any later GPU; what is architecture-specific (sm_90a)
    runs on exactly that one, family-specific (sm_100f) as a binary does, and their PTX no further.
    """
    return any(_runs(architecture, gpu.capability) for architecture in gpu.architectures)


def _runs(architecture: str, capability: tuple[int, int]) -> bool:
    parts = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", architecture)
    if parts is None:
        return False
    major, minor, special = int(parts[2]), int(parts[3]), parts[4]
    if special == "a":
        return capability == (major, minor)
    if parts[1] == "compute" and not special:
        return capability >= (major, minor)
    return capability[0] == major and capability[1] >= minor


def examine(settings: Settings, *, root: Path = Path("/")) -> tuple[str, list[Problem]]:
    """What runs compute on here, in a sentence, and what is wrong with it. Imports torch only where a GPU may be found."""
    if settings.device == "cpu":
        return "the CPU (CATDOG_DEVICE=cpu)", []
    if not has_torch():
        return "nothing: torch is not installed, so no run can be done here", []
    if settings.device == "auto" and not is_visible(root):
        return "the CPU (no NVIDIA driver is visible)", []
    found = find()
    if isinstance(found, Gpu):
        return f"the GPU {found}; torch has kernels for {' '.join(found.architectures)}", []
    if settings.device == "auto":
        problem = Problem("device", "warning", f"Expected the GPU to be of use. Received: {found.reason}.", NoDevice.default_remedy)
        return f"the CPU ({found.reason})", [problem]
    try:
        device = decide("auto", settings, found, threads=cores())
    except NoDevice as error:
        return f"nothing ({found.reason})", [Problem("device", "error", error.message, error.remedy)]
    return f"the CPU ({device.reason})", [
        Problem("device", "warning", f"Expected a GPU. Received: {found.reason}; runs compute on the CPU.", NoDevice.default_remedy),
    ]


def has_torch() -> bool:
    """Whether runs can be done here: a service's image has no torch."""
    return importlib.util.find_spec("torch") is not None


def is_visible(root: Path = Path("/")) -> bool:
    """Whether an NVIDIA driver can be reached; asks no library."""
    return any((root / sign).exists() for sign in SIGNS)


def session(graph: Path, *, device: str, threads: int) -> "InferenceSession":
    """Open a graph in ONNX Runtime on `device` (auto, cpu or cuda); `threads` are for one call's arithmetic, 0 means one per core.

    Where a GPU does not do, the CPU computes. Every session is opened here, so that nothing opens one before settings.py has told
    ONNX Runtime to send nothing home. Its threads spin while a call lasts, which nearly halves its time on two cores, and no longer: by
    default they go on between calls, on cores that others could use.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or cores()
    options.add_session_config_entry("session.force_spinning_stop", "1")
    opened = onnxruntime.InferenceSession(graph, options, providers=providers(device))
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # what it has read and put in order: 27 MB of EfficientNet-B0, which glibc would keep for itself
    return opened


def has_room() -> bool:
    """Whether at this moment no more threads want to compute on this machine than it has cores, the caller's included. It is the whole
    machine that both are of: in a container too the kernel tells of no other.

    A call over all cores waits for the slowest of them: beside a training, whose threads hold a core for milliseconds before they give
    way, it takes longer than a call on one.
    """
    try:
        running = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])
    except (OSError, ValueError, IndexError):  # another kernel, or a container that may not see it
        return True
    return running <= (os.cpu_count() or 0)


def lanes(device: str) -> tuple[int, int]:
    """Of many callers of a session: how many calls go side by side for the most answers a second, and how many pictures into one at most.

    Two pictures in a call take a core a tenth less than two calls, more take more memory and no less time (EfficientNet-B0); a GPU computes
    many in the time of one. Nobody waits for company: only what waits anyway goes together.
    """
    return (cores(), 2) if providers(device) == providers("cpu") else (1, 64)


def providers(device: str) -> list[str | tuple[str, dict[str, str]]]:
    """What ONNX Runtime computes on, best first.

    Not TensorRT, which compiles each network for minutes. No TF32, whose 10 bits of mantissa miss the golden logits.
    """
    import onnxruntime

    gpu = "CUDAExecutionProvider"
    if device == "cpu" or gpu not in onnxruntime.get_available_providers() or not is_visible():
        return ["CPUExecutionProvider"]
    onnxruntime.preload_dlls()  # CUDA's libraries lie in site-packages, where the loader does not look
    return [(gpu, {"use_tf32": "0"}), "CPUExecutionProvider"]


def lack_of_sessions(device: Device) -> str:
    """Why a run on this device has its frozen backbone on another one; empty when it has not."""
    if device.name != "cuda" or providers("cuda") != providers("cpu"):
        return ""
    return "The frozen backbone is run on the CPU: the ONNX Runtime that is installed here knows no GPU. The head trains on the GPU."


def shortfalls(settings: Settings, *, root: Path = Path("/")) -> list[str]:
    """What a service of this machine lacks to predict as it is set up to."""
    if settings.device != "cuda" or is_visible(root):
        return []
    return ["CATDOG_DEVICE=cuda and no NVIDIA driver is visible: predictions are computed on the CPU."]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was too little memory for what torch wanted, on a GPU or, where it says so in words alone, on the CPU."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def peak_memory(device: str) -> int:
    """Bytes: the most that torch has taken on the GPU, or this process on the CPU, up to now."""
    import resource

    import torch

    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def wait(device: str) -> None:
    """Until a GPU has done all that it was told; the CPU has."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def multiply_in(precision: str, *, device: str) -> "torch.dtype":
    """What networks multiply in on `device`, of what a config wants: auto, float32, bfloat16 or float16. On the CPU float32.

    bfloat16 has float32's range and needs no scaling of the loss; GPUs before Ampere (compute capability 8.0) only emulate it.
    """
    import torch

    if device == "cpu" or precision == "float32":
        return torch.float32
    if precision == "auto":
        return torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float32
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}[precision]


def compiled(network: "nn.Module", *, wanted: bool) -> "Callable[[Tensor], Tensor]":
    """The network's forward, translated by torch.compile if that is wanted.

    Raises:
        BadConfig: it is wanted, and there is no C++ compiler, without which torch.compile can do nothing, for a GPU neither.
    """
    if not wanted:
        return network
    import torch

    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        raise BadConfig(
            "compile=true needs a C++ compiler on the worker. Received: none.",
            field="compile", remedy="Set compile to false, or install g++.",
        )
    forward: Callable[[Tensor], Tensor] = torch.compile(network)
    return forward


def with_shared_statistics(network: "nn.Module", *, ranks: int, device: str) -> "nn.Module":
    """The network with batch normalisation over the shards of all ranks: torch has it for GPUs alone."""
    if ranks == 1 or device == "cpu":
        return network
    from torch import nn

    shared: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return shared


def take_own_gpu(device: str) -> str:
    """For one of several processes that torchrun started: take the GPU of its number; returns how torch.distributed shall talk."""
    import torch

    if device == "cpu":
        return "gloo"
    torch.cuda.set_device(torch.distributed.get_node_local_rank())
    return "cpu:gloo,cuda:nccl"


def pinned(batch: "Tensor") -> "Tensor":
    """A batch in memory that a GPU in use can fetch from while the CPU goes on; without a GPU as it is."""
    import torch

    return batch.pin_memory() if torch.cuda.is_initialized() else batch  # type: ignore[no-untyped-call]


def torch_random_state() -> "dict[str, Tensor]":
    """The state of torch's random generators, of the CPU and of a GPU in use, as uint8 tensors by name: what dropout draws from."""
    import torch

    state = {"random.cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["random.cuda"] = torch.cuda.get_rng_state()
    return state


def random_state() -> "dict[str, Tensor]":
    """The state of every random generator: torch's, Python's and numpy's, as uint8 tensors by name."""
    import numpy as np
    import torch

    state = torch_random_state()
    kind, keys, *rest = np.random.get_state(legacy=True)
    for name, value in (("python", random.getstate()), ("numpy", (kind, np.asarray(keys).tolist(), *rest))):
        state[f"random.{name}"] = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    return state


def restore_torch_random_state(state: "dict[str, Tensor]") -> None:
    """Put back what torch_random_state returned; a GPU's state is left out where there is no GPU."""
    import torch

    torch.set_rng_state(state["random.cpu"])
    if "random.cuda" in state and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.set_rng_state(state["random.cuda"])


def restore_random_state(state: "dict[str, Tensor]") -> None:
    """Put back what random_state returned."""
    import numpy as np

    restore_torch_random_state(state)
    version, keys, gauss = json.loads(state["random.python"].numpy().tobytes())
    random.setstate((version, tuple(keys), gauss))
    np.random.set_state(json.loads(state["random.numpy"].numpy().tobytes()))
