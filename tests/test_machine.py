"""machine: what a container gives, read from real files below a folder, and what is too little."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from catdog.machine import GIB, IMPORT_BYTES, LOADER_PROCESSES, RUN_BYTES, Machine, problems, shared_memory_needed
from catdog.settings import Settings

AFFINITY = len(os.sched_getaffinity(0))
PLENTY = Machine(affinity=8, quota=None, memory=16 * GIB, memory_limit=None, shared_memory=64 * 2**20)


def tree(root: Path, **files: str) -> Path:
    """A folder with files, / written as __."""
    for name, text in ({"proc__meminfo": "MemFree: 1 kB\nMemTotal:  8388608 kB\n"} | files).items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def quota(root: Path, **files: str) -> float | None:
    return Machine.look(tree(root, **{f"sys__fs__cgroup__{name}": text for name, text in files.items()})).quota


def limit(root: Path, **files: str) -> int | None:
    return Machine.look(tree(root, **{f"sys__fs__cgroup__{name}": text for name, text in files.items()})).memory_limit


def test_this_machine_is_read_from_its_real_files() -> None:
    here = Machine.look()
    assert 1 <= here.cpus <= here.affinity == AFFINITY
    assert 0 < here.usable_memory <= here.memory == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_the_quota_of_cgroup_2_and_of_cgroup_1(tmp_path: Path) -> None:
    assert quota(tmp_path / "a", **{"cpu.max": "150000 100000\n"}) == 1.5
    assert quota(tmp_path / "b", **{"cpu.max": "max 100000\n"}) is None
    assert quota(tmp_path / "c", **{"cpu__cpu.cfs_quota_us": "50000\n", "cpu__cpu.cfs_period_us": "100000\n"}) == 0.5
    assert quota(tmp_path / "d", **{"cpu__cpu.cfs_quota_us": "-1\n", "cpu__cpu.cfs_period_us": "100000\n"}) is None
    assert quota(tmp_path / "e") is None


def test_the_memory_limit_of_cgroup_2_and_of_cgroup_1(tmp_path: Path) -> None:
    assert limit(tmp_path / "a", **{"memory.max": "1073741824\n"}) == GIB
    assert limit(tmp_path / "b", **{"memory.max": "max\n"}) is None
    assert limit(tmp_path / "c", **{"memory__memory.limit_in_bytes": "1073741824\n"}) == GIB
    assert limit(tmp_path / "d", **{"memory__memory.limit_in_bytes": "9223372036854771712\n"}) is None  # how version 1 says: none
    assert limit(tmp_path / "e", **{"memory.max": f"{100 * GIB}\n"}) is None  # more than there is
    assert limit(tmp_path / "f") is None


@pytest.mark.parametrize(("allowed", "cpus"), [(None, 8), (0.2, 1), (1.0, 1), (1.5, 2), (2.0, 2), (100.0, 8)])
def test_cpus_are_the_quota_rounded_up_and_never_more_than_the_affinity(allowed: float | None, cpus: int) -> None:
    assert replace(PLENTY, quota=allowed).cpus == cpus


def test_batches_of_loader_processes_need_shared_memory_and_threads_none() -> None:
    assert shared_memory_needed(batch_size=32, image_size=224, processes=4) == 4 * 2 * 32 * 224 * 224 * 3
    assert shared_memory_needed(batch_size=4096, image_size=1024, processes=LOADER_PROCESSES) == 0


def found(machine: Machine, folder: Path, *, runs: bool = True) -> dict[str, str]:
    """Severity by code; each problem is one line that says what is expected, what came and what to do."""
    listed = problems(machine, Settings.load(data_dir=folder), runs=runs)
    for problem in listed:
        assert "Expected " in problem.line() and "Received: " in problem.line() and "\n" not in problem.line() and problem.remedy
    return {problem.code: problem.severity for problem in listed}


@pytest.mark.parametrize(("machine", "expected"), [
    (PLENTY, {}),
    (replace(PLENTY, shared_memory=0), {}),
    (replace(PLENTY, quota=0.5), {"cpus": "warning"}),
    (replace(PLENTY, memory_limit=RUN_BYTES), {}),
    (replace(PLENTY, memory_limit=RUN_BYTES - 1), {"memory": "warning"}),
    (replace(PLENTY, memory_limit=IMPORT_BYTES - 1), {"memory": "error"}),
    (replace(PLENTY, memory=IMPORT_BYTES - 1), {"memory": "error"}),
])
def test_what_is_too_little_is_said_and_nothing_else(tmp_path: Path, machine: Machine, expected: dict[str, str]) -> None:
    assert found(machine, tmp_path) == expected


def test_where_no_runs_are_done_their_memory_is_not_asked_for(tmp_path: Path) -> None:
    assert found(replace(PLENTY, memory_limit=GIB // 4), tmp_path, runs=False) == {}


def test_a_folder_that_everybody_may_write_into_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs").chmod(0o1777)
    assert found(PLENTY, tmp_path) == {"folder": "error"}


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catdog.machine.DISK_BYTES", 2**60)
    assert found(PLENTY, tmp_path / "not" / "made" / "yet") == {"disk": "warning"}
