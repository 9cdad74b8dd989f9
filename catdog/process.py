"""start, stop, die_with_parent, Identity: child processes that never outlive their parent.

Each child is a session and process group of its own, so that a signal reaches it and everything it started, and nobody else.
Linux only: the kernel's parent-death signal is what makes a kill -9 of the parent leave nothing behind.
"""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_TRIES, _TRY_SECONDS = 3, 0.11
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent: int) -> None:
    """Ask the kernel to SIGKILL this process when `parent` (a pid) dies; exit at once if it is dead already."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def start(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    niceness: int = 0,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start `command` in a session of its own, with SIGKILL on this process's death. With a niceness it steps back behind other sessions.

    The kernel watches the thread that starts the child: start children from a thread that lives as long as they should.
    """
    parent = os.getpid()

    def prepare() -> None:
        die_with_parent(parent)
        _step_back(os.nice(niceness))

    return subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
        start_new_session=True, pass_fds=pass_fds, preexec_fn=prepare,  # noqa: PLW1509 - our starters fork no thread-held locks
    )


def _step_back(niceness: int) -> None:
    """Make this process's new session as nice as the process is.

    Where the kernel shares the cores among sessions first (sched(7), "The autogroup feature"), a process's own niceness only counts
    within its session, and a session has one of its own, which begins with 0.
    """
    for _ in range(_TRIES if niceness > 0 else 0):
        try:
            Path("/proc/self/autogroup").write_text(str(niceness))
        except BlockingIOError:  # users other than root may change ten a second on a whole machine
            time.sleep(_TRY_SECONDS)
        except OSError:  # the kernel has no such thing, or this container may not change it
            return
        else:
            return


def signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to the child's whole group; a group that is gone is no error."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def stop(process: subprocess.Popen[bytes], *, grace_seconds: float) -> int:
    """SIGTERM to the child, SIGKILL to its whole group at the end of the grace; return its exit status (negative: a signal)."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_seconds)
    signal_group(process, signal.SIGKILL)
    return process.wait()


@dataclass(frozen=True, slots=True)
class Identity:
    """Which process this is, beyond doubt: pids are used again after a while and after a reboot."""

    host: str
    boot_id: str
    pid_namespace: str
    pid: int
    start_time: float
    """Seconds since the epoch, from the kernel's own count of clock ticks since boot."""

    @classmethod
    def of(cls, pid: int) -> "Identity":
        """The identity of a process of this machine that is alive now."""
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return cls(socket.gethostname(), boot_id, str(Path("/proc/self/ns/pid").readlink()), pid, psutil.Process(pid).create_time())

    def is_dead(self) -> bool:
        """True only when this machine can tell: the same host, boot and pid namespace, and no such process."""
        here = Identity.of(os.getpid())
        if (self.host, self.pid_namespace) != (here.host, here.pid_namespace):
            return False
        if self.boot_id != here.boot_id:
            return True
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.start_time) > 1.0 or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True
