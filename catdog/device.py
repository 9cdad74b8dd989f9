"""choose, Device, cores, random_state: cpu or cuda, and why. The only file that branches on the device.

torch is imported only inside the functions that ask it, so that service and worker can import this file.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catdog.errors import BadConfig

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Device:
    """Where a run computes. Goes into the job record and the model package."""

    name: str
    """What torch calls it: cpu or cuda."""
    reason: str
    """Why this one."""
    threads: int
    """CPU threads for the arithmetic of one process."""

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the job record."""
        return {"name": self.name, "reason": self.reason, "threads": self.threads}


def cores() -> int:
    """CPUs this process may really use: the cgroup's quota (rounded up) and the affinity mask, whichever is less.

    os.cpu_count() knows neither, so a container with one CPU of sixteen would start sixteen threads.
    """
    available = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return available
    return available if quota == "max" else max(1, min(available, -(-int(quota) // int(period))))


def choose(wanted: str) -> Device:
    """Choose where to compute and set torch up for it: its threads, and kernels that repeat. `wanted` is auto, cpu or cuda.

    Raises:
        BadConfig: cuda is wanted and there is none.
    """
    import torch

    threads = cores()
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    if wanted == "cpu":
        return Device("cpu", "the config asks for the CPU", threads)
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        asked = "the config asks for a GPU" if wanted == "cuda" else "a GPU is there"
        return Device("cuda", f"{asked}: {torch.cuda.get_device_name()}, compute capability {major}.{minor}", threads)
    built = "this torch is built without CUDA" if torch.version.cuda is None else "no CUDA device answers"
    if wanted == "cuda":
        raise BadConfig(
            f"device=cuda needs a GPU. Received: {built}.", field="device", remedy="Set device to auto or cpu, or look at the driver.",
        )
    return Device("cpu", f"{built}; {threads} CPU threads", threads)


def random_state() -> "dict[str, Tensor]":
    """The state of torch's random generators, of the CPU and of a GPU in use, as uint8 tensors by name."""
    import torch

    state = {"random.cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["random.cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: "dict[str, Tensor]") -> None:
    """Put back what random_state returned; a GPU's state is left out where there is no GPU."""
    import torch

    torch.set_rng_state(state["random.cpu"])
    if "random.cuda" in state and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.set_rng_state(state["random.cuda"])
