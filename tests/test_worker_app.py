"""worker/app.py, worker/check.py, service/check.py: what stops a start, and what a container's health is asked of."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import redis

from catdog import process
from catdog.settings import Settings
from catdog.stack import redis_server
from tests.living import until
from tests.serving import Service
from worker import check

pytest_plugins = ("tests.service_fixtures",)

ROOT = Path(__file__).parent.parent
HOST = socket.gethostname()


def module(name: str, folder: Path, **variables: str) -> subprocess.Popen[str]:
    """`python -m NAME` in a data folder."""
    named = {f"CATDOG_{variable.upper()}": value for variable, value in variables.items()}
    return subprocess.Popen(
        [sys.executable, "-m", name], env=dict(os.environ) | {"CATDOG_DATA_DIR": str(folder / "data")} | named,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )


def ended(child: subprocess.Popen[str]) -> tuple[int, str, str]:
    printed, logged = child.communicate(timeout=60)
    return child.returncode, printed, logged


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[str]:
    """The URL of a real redis-server of this test's own."""
    path = tmp_path / "redis.sock"
    command = [str(redis_server()), "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(tmp_path)]
    child = process.start(command, stdout=subprocess.DEVNULL)

    def answers() -> bool:
        try:
            with redis.Redis(unix_socket_path=str(path)) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    until(answers, "redis")
    yield f"redis+socket://{path}"
    process.stop(child, grace_seconds=5)


@pytest.mark.parametrize(("name", "variable", "value", "words"), [
    ("service", "port", "abc", ["CATDOG_PORT", "integer"]),
    ("worker", "redis_url", "http://u:hunter2@x", ["CATDOG_REDIS_URL", "redis://"]),
    ("service", "database_url", "postgresql//u:hunter2@h/x", ["CATDOG_DATABASE_URL", "SQLAlchemy URL"]),
    ("worker", "database_url", "postgresql//u:hunter2@h/x", ["CATDOG_DATABASE_URL", "SQLAlchemy URL"]),
    ("service", "token_file", "/dev/null", ["CATDOG_TOKEN_FILE", "at least 16 characters"]),
    ("service", "data_dir", "/proc/catdog", ["CATDOG_DATA_DIR", "/proc/catdog"]),
    ("worker", "data_dir", "/proc/catdog", ["CATDOG_DATA_DIR", "/proc/catdog"]),
])
def test_a_malformed_variable_stops_the_start_in_one_line(tmp_path: Path, name: str, variable: str, value: str, words: list[str]) -> None:
    child = module(name, tmp_path, **({"redis_url": "redis://127.0.0.1:1", "device": "cpu"} | {variable: value}))
    code, printed, logged = ended(child)
    lines = [line for line in logged.splitlines() if not line.startswith(DOCTOR)]
    assert code == 2 and printed == "" and len(lines) == 1, logged
    assert all(word in lines[0] for word in words) and "hunter2" not in logged, logged


DOCTOR = ("cpus: ", "memory: ", "shared memory: ", "disk: ", "user: ", "folders: ", "computes on: ", "versions: ")


def test_a_worker_without_a_broker_says_which_variable_is_missing(tmp_path: Path) -> None:
    code, _, logged = ended(module("worker", tmp_path))
    assert code == 2 and logged.count("\n") == 1 and "CATDOG_REDIS_URL" in logged


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there is a GPU here")
def test_a_worker_for_a_gpu_without_one_says_so_and_does_not_start(tmp_path: Path) -> None:
    code, _, logged = ended(module("worker", tmp_path, redis_url="redis://127.0.0.1:1", device="cuda"))
    said = [line for line in logged.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(said) == 1 and "CATDOG_DEVICE=cuda" in said[0] and "CATDOG_CPU_FALLBACK=1" in said[0], logged
    assert "event=refused_to_start" in logged and "Traceback" not in logged


def test_a_worker_is_healthy_from_its_first_look_at_the_record_until_its_end(tmp_path: Path, broker: str) -> None:
    settings = Settings.load(data_dir=tmp_path / "data")
    settings.make_folders()
    check.begin(settings)
    check.note(settings)  # of a worker that was killed a moment ago
    other = tmp_path / "data" / "workers" / "another-host"
    other.write_text(json.dumps({"at": time.time()}))
    (tmp_path / "data" / "workers" / "of-long-ago").write_text("")
    os.utime(tmp_path / "data" / "workers" / "of-long-ago", (0, 0))
    note = other.with_name(HOST)
    before = note.stat().st_ino
    child = module("worker", tmp_path, redis_url=broker, device="cpu", sweep_seconds="0.2")
    try:
        until(lambda: not note.exists() or note.stat().st_ino != before, "the old note to go")
        assert not note.exists()  # before the broker is reached
        until(note.exists, "the worker's note")
        code, printed, _ = ended(module("worker.check", tmp_path))
        assert code == 0 and printed.count("\n") == 1
        assert not any("torch" in mapped.path for mapped in psutil.Process(child.pid).memory_maps())
    finally:
        child.send_signal(signal.SIGTERM)
        code, _, logged = ended(child)
    assert code == 0, logged
    for name in DOCTOR:
        assert sum(line.startswith(name) for line in logged.splitlines()) == 1, logged
    assert sorted(path.name for path in note.parent.iterdir()) == ["another-host"]
    code, printed, _ = ended(module("worker.check", tmp_path))
    assert code == 1 and printed.count("\n") == 1 and HOST in printed


@pytest.mark.parametrize(("seconds_ago", "sweep_seconds", "healthy"), [
    (0, 5, True), (29, 5, True), (31, 5, False), (31, 20, True), (61, 20, False), (-60, 5, False),
])
def test_how_old_a_note_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    seconds_ago: float, sweep_seconds: float, healthy: bool,
) -> None:
    monkeypatch.setenv("CATDOG_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("CATDOG_SWEEP_SECONDS", str(sweep_seconds))
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / HOST).write_text(json.dumps({"at": time.time() - seconds_ago}))
    assert check.main() == (0 if healthy else 1)
    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"at": null}'])
def test_half_a_note_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / HOST).write_text(content)
    assert check.age(Settings.load(data_dir=tmp_path)) is None


def test_a_service_is_healthy_when_it_is_ready_or_degraded(service: Service) -> None:
    def asked(**variables: str) -> tuple[int, str, str]:
        return ended(module("service.check", service.settings.root.parent, **({"port": str(service.port)} | variables)))

    code, printed, logged = asked()
    assert code == 0 and "degraded" in printed and printed.count("\n") == 1 and logged == ""
    service.settings.runs.rmdir()
    code, printed, _ = asked()
    assert code == 1 and printed.startswith("503 ") and "runs" in printed and printed.count("\n") == 1
    code, printed, _ = asked(port="x")
    assert code == 1 and "CATDOG_PORT" in printed


def test_a_service_that_is_not_there_is_not_healthy(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
    code, printed, _ = ended(module("service.check", tmp_path, port=port))
    assert code == 1 and port in printed and printed.count("\n") == 1


def test_the_check_shows_the_token(settings: Settings, serve: Callable[[Settings], Service], tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a token of more than sixteen letters\n")
    port = str(serve(settings.model_copy(update={"token_file": tmp_path / "token"})).port)
    assert ended(module("service.check", tmp_path, port=port, host="0.0.0.0", token_file=str(tmp_path / "token")))[0] == 0
    code, printed, _ = ended(module("service.check", tmp_path, port=port))
    assert code == 1 and printed.startswith("401 ")


def test_the_checks_import_nothing_heavy() -> None:
    code = "import service.check, worker.check, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"torch", "onnxruntime", "sqlalchemy", "celery", "fastapi", "httpx", "numpy"} & set(done.stdout.split())
