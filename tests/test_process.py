"""process: children that never outlive their parent, and identities that are never mistaken."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from catdog import process
from catdog.process import Identity

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
DEAF = [sys.executable, "-c", "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + SLEEPER[2]]


def test_a_child_dies_with_its_parent() -> None:
    program = (
        "import subprocess, sys, time; from catdog import process;"
        f"child = process.start({SLEEPER!r}); print(child.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        grandchild = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        grandchild.wait(timeout=30)  # raises if it lives on


@pytest.mark.parametrize(("command", "expected"), [(SLEEPER, -signal.SIGTERM), (DEAF, -signal.SIGKILL)])
def test_stop_asks_first_and_kills_afterwards(command: list[str], expected: int) -> None:
    child = process.start(command, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"up\n"
    assert process.stop(child, grace_seconds=0.2 if command is DEAF else 30) == expected
    child.stdout.close()


def test_stop_ends_the_whole_group() -> None:
    program = f"import subprocess; c = subprocess.Popen({DEAF!r}); print(c.pid, flush=True); c.wait()"
    child = process.start([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert child.stdout is not None
    lines = {child.stdout.readline() for _ in range(2)}
    grandchild = psutil.Process(int((lines - {b"up\n"}).pop()))
    process.stop(child, grace_seconds=30)
    grandchild.wait(timeout=30)
    child.stdout.close()


def test_an_identity_knows_the_living_from_the_dead() -> None:
    child = process.start(SLEEPER)
    identity = Identity.of(child.pid)
    assert not identity.is_dead()
    process.stop(child, grace_seconds=30)
    assert identity.is_dead()


def test_an_identity_is_not_fooled_by_a_pid_used_again_or_a_reboot_and_does_not_judge_other_hosts() -> None:
    me = Identity.of(os.getpid())
    assert not me.is_dead()
    assert replace(me, start_time=me.start_time - 100).is_dead()
    assert replace(me, boot_id="another boot").is_dead()
    assert not replace(me, host="elsewhere", pid=2**22 - 1).is_dead()
    assert not replace(me, pid_namespace="pid:[1]", pid=2**22 - 1).is_dead()


def test_a_nice_child_is_so_with_its_session_and_its_children_are() -> None:
    """A grandchild in a session of its own would else begin it at 0."""
    sessions, expected = Path("/proc/self/autogroup"), min(os.nice(0) + 7, 19)
    show = (
        "import os, pathlib; file = pathlib.Path('/proc/self/autogroup');"
        "print(os.nice(0), file.read_text().split()[-1] if file.exists() else os.nice(0))"
    )
    program = f"{show}; import subprocess, sys; from catdog import process; process.start([sys.executable, '-c', {show!r}]).wait()"
    with process.start([sys.executable, "-c", program], niceness=7, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        said = child.stdout.read().decode().split("\n")[:2]
    assert said == [f"{expected} {expected}"] * 2, sessions.exists()


def test_a_child_that_is_not_nice_changes_no_session() -> None:
    with process.start([sys.executable, "-c", "import os; print(os.nice(0))"], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and int(child.stdout.read()) == os.nice(0)
