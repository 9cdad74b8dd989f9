"""Machine, Problem, problems, shared_memory_needed, versions: what this machine or container gives a run, and what is too little. No torch.

A container's CPUs and memory are its cgroup's, of version 1 or 2; inside one, its own cgroup lies at the root of the tree.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from catdog.errors import BadSettings
from catdog.settings import Settings, check_folder, nearest

MIB, GIB = 2**20, 2**30
RUN_BYTES = 3 * GIB // 2
"""Memory that a run of the default network takes at its peak: 1.2 GiB measured (2 threads, torch 2.15), and some room."""
IMPORT_BYTES = GIB // 2
"""Memory without which a run cannot even begin: torch alone takes so much."""
DISK_BYTES = GIB
"""Free disk below which a run may end before its package is written: one keeps features, checkpoints and a package."""
LOADER_PROCESSES = 0
"""Processes beside the run's own that prepare batches: catdog's loaders are threads, which share memory as it is."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something this machine lacks."""

    code: str
    severity: Literal["error", "warning"]
    """An error: a worker does not start."""
    message: str
    remedy: str

    def line(self) -> str:
        """Everything about it in one line."""
        return f"{self.severity}: {self.code}: {self.message} {self.remedy}"


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is, in CPUs and bytes."""

    affinity: int
    """CPUs that this process may run on."""
    quota: float | None
    """CPUs' worth of time that the cgroup allows; None: no limit."""
    memory: int
    memory_limit: int | None
    """What the cgroup allows; None: no limit below the machine's own memory."""
    shared_memory: int
    """Free in /dev/shm."""

    @classmethod
    def look(cls, root: Path = Path("/")) -> "Machine":
        """Look at /proc, /sys/fs/cgroup and /dev/shm below `root`."""
        memory = _memory(root / "proc/meminfo")
        limit = _first_number(root / "sys/fs/cgroup", "memory.max", "memory/memory.limit_in_bytes")
        return cls(
            affinity=len(os.sched_getaffinity(0)),
            quota=_quota(root / "sys/fs/cgroup"),
            memory=memory,
            memory_limit=limit if limit is not None and limit < memory else None,  # version 1 says "none" by a huge number
            shared_memory=_free(root / "dev/shm"),
        )

    @property
    def cpus(self) -> int:
        """CPUs that this process may really use: the quota, rounded up, or the affinity mask, whichever is less."""
        return self.affinity if self.quota is None else max(1, min(self.affinity, -int(-self.quota // 1)))

    @property
    def usable_memory(self) -> int:
        """Bytes that this process and its children may take."""
        return self.memory if self.memory_limit is None else self.memory_limit

    def to_dict(self) -> dict[str, Any]:
        """For a program to read."""
        return {
            "cpus": self.cpus, "cpu_affinity": self.affinity, "cpu_quota": self.quota, "memory_bytes": self.memory,
            "memory_limit_bytes": self.memory_limit, "shared_memory_bytes": self.shared_memory,
        }


def problems(machine: Machine, settings: Settings, *, runs: bool) -> list[Problem]:
    """What of this machine is too little or in the way, with a remedy each; `runs`: whether runs are done here."""
    return [*_of_cpus(machine), *(_of_memory(machine) if runs else ()), *_of_folders(settings)]


def shared_memory_needed(*, batch_size: int, image_size: int, processes: int, prefetch: int = 2) -> int:
    """Bytes of /dev/shm that hold the batches which `processes` have prepared and the run has not taken yet.

    catdog's loaders are threads (LOADER_PROCESSES is 0), so it needs none and the 64 MiB of a plain container are plenty.
    """
    return processes * prefetch * batch_size * image_size * image_size * 3


def versions(*distributions: str) -> dict[str, str]:
    """Of those distributions that are installed here: an image for a GPU has onnxruntime-gpu in place of onnxruntime."""
    found = {}
    for distribution in distributions:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[distribution] = metadata.version(distribution)
    return found


def free_disk(folder: Path) -> int:
    """Free bytes where a folder lies or will lie."""
    return shutil.disk_usage(nearest(folder)).free


def size(count: int) -> str:
    """Bytes for people to read."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.0f} MiB"


def _of_cpus(machine: Machine) -> Iterator[Problem]:
    if machine.quota is not None and machine.quota < 1:
        yield Problem(
            "cpus", "warning", f"Expected at least one CPU. Received: a quota of {machine.quota:g}.", "Raise the container's CPU limit.",
        )


def _of_memory(machine: Machine) -> Iterator[Problem]:
    usable = machine.usable_memory
    if usable < RUN_BYTES:
        yield Problem(
            "memory", "error" if usable < IMPORT_BYTES else "warning",
            f"Expected {size(RUN_BYTES)} of memory, which a run of the default network needs. Received: {size(usable)}.",
            "Raise the container's memory limit, or train with a smaller batch_size and image_size.",
        )
    needed = shared_memory_needed(batch_size=32, image_size=224, processes=LOADER_PROCESSES)
    if machine.shared_memory < needed:
        yield Problem(
            "shared_memory", "error", f"Expected {size(needed)} free in /dev/shm. Received: {size(machine.shared_memory)}.",
            "Raise the container's shm_size.",
        )


def _of_folders(settings: Settings) -> Iterator[Problem]:
    free = free_disk(settings.root)
    if free < DISK_BYTES:
        yield Problem(
            "disk", "warning", f"Expected {size(DISK_BYTES)} free where {settings.root} lies. Received: {size(free)}.",
            "Make room, or set CATDOG_DATA_DIR to a folder on another disk.",
        )
    for folder in settings.folders:
        try:
            if nearest(folder) == folder:
                check_folder(folder)
        except BadSettings as error:
            yield Problem("folder", "error", error.message, error.remedy)


def _quota(cgroup: Path) -> float | None:
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        quota, period = (_text(cgroup / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() else None  # none: "max", "-1", or no such file


def _first_number(folder: Path, *names: str) -> int | None:
    """What the first file that is there says; None also where it says "max"."""
    text = next((_text(folder / name) for name in names if (folder / name).is_file()), "")
    return int(text) if text.isdecimal() else None


def _memory(meminfo: Path) -> int:
    return next(int(line.split()[1]) * 1024 for line in meminfo.read_text().splitlines() if line.startswith("MemTotal:"))


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free if folder.is_dir() else 0


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
