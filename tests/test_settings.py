"""settings: defaults that are safe, and refusals that name the variable."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import dedent, indent

import pytest
from kombu import Connection  # type: ignore[attr-defined]

from catdog.errors import BadSettings
from catdog.settings import Settings

ROOT = Path(__file__).parent.parent


def test_every_setting_has_a_sentence() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description and field.description.endswith("."), name


def test_the_environment_is_read_and_options_win(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CATDOG_PORT", "9000")
    monkeypatch.setenv("CATDOG_DATA_DIR", str(tmp_path))
    assert Settings.load().port == 9000
    assert Settings.load(port=9001, host=None).port == 9001
    assert Settings.load().runs == tmp_path / "runs"


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "::", "example.org"])
def test_a_bind_beyond_loopback_needs_a_token(host: str, tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="CATDOG_TOKEN_FILE"):
        Settings.load(host=host)
    assert Settings.load(host=host, token_file=tmp_path / "token").host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_needs_none(host: str) -> None:
    assert Settings.load(host=host).on_loopback


def test_a_value_out_of_range_is_refused_by_the_name_of_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CATDOG_PORT", "70000")
    with pytest.raises(BadSettings, match="CATDOG_PORT"):
        Settings.load()


def test_a_misspelt_variable_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CATDOG_DATADIR", "x")
    assert Settings.unknown_variables() == ["CATDOG_DATADIR"]


def test_a_run_is_told_nothing_of_database_redis_or_tokens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CATDOG_REDIS_URL", "redis://:secret@localhost")
    monkeypatch.setenv("catdog_database_url", "postgresql://u:secret@localhost/db")  # names count in any case
    settings = Settings.load(token_file=tmp_path / "token", data_dir=tmp_path, device="cuda", cpu_fallback=True, cache_bytes=1000)
    assert "secret" in settings.database
    told = {name: value for name, value in settings.run_environment().items() if name.upper().startswith("CATDOG_")}
    assert told == {
        "CATDOG_DATA_DIR": str(tmp_path), "CATDOG_WEIGHTS_DIR": str(tmp_path / "weights"),
        "CATDOG_DEVICE": "cuda", "CATDOG_CPU_FALLBACK": "True", "CATDOG_CACHE_BYTES": "1000",
    }
    assert "secret" not in str(settings.run_environment())
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert (Settings.load(secrets=False).device, Settings.load(secrets=False).cpu_fallback) == ("cuda", True)


def test_children_see_the_same_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.load(data_dir=tmp_path, port=0, lease_seconds=3)
    for name, value in settings.environment().items():
        if name not in os.environ:
            monkeypatch.setenv(name, value)
    assert Settings.load() == settings


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A folder that a stranger may reach: pytest's own are closed to others."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def secrets(open_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of secrets, empty."""
    folder = open_path / "secrets"
    folder.mkdir()
    monkeypatch.setattr(Settings, "secrets_folder", folder)
    return folder


def test_a_secret_file_is_read_and_the_environment_wins(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (secrets / "catdog_redis_url").write_text("redis://:hunter2@127.0.0.1:1/0\n")
    (secrets / "CATDOG_PORT").write_text("8123\n")
    (secrets / "of_somebody_else").mkdir()
    settings = Settings.load()
    assert (settings.redis_url, settings.port) == ("redis://:hunter2@127.0.0.1:1/0", 8123)
    monkeypatch.setenv("CATDOG_PORT", "8124")
    settings = Settings.load()
    assert [settings.origin(name) for name in ("redis_url", "port", "host")] == ["file", "environment", "default"]
    assert settings.port == 8124
    assert settings.environment()["CATDOG_REDIS_URL"] == settings.redis_url  # what `catdog up` starts knows it too
    assert "hunter2" not in str(settings.run_environment()) and Settings.load(secrets=False).redis_url is None


@pytest.mark.parametrize("kind", ["unreadable", "folder", "no text"])
def test_a_secret_that_cannot_be_read_is_one_line_with_its_name(secrets: Path, kind: str) -> None:
    path = secrets / "catdog_database_url"
    if kind == "folder":  # what an engine makes of a file that is not there
        path.mkdir()
    else:
        path.write_bytes(b"\xff\xfe" if kind == "no text" else b"sqlite:////x")
    code = f"""
        Settings.secrets_folder = Path({str(secrets)!r})
        drop()
        Settings.load()
    """
    path.chmod(0o000 if kind == "unreadable" else 0o755)
    refused = as_stranger(code)
    assert refused.startswith("Expected secrets ") and "\n" not in refused, refused
    assert ("database_url" if kind == "no text" else str(path)) in refused
    path.chmod(0o755)


@pytest.mark.parametrize(("variable", "value", "words"), [
    ("PORT", "abc", ["integer", "Received: 'abc'"]),
    ("DEVICE", "gpu", ["'auto', 'cpu' or 'cuda'", "Received: 'gpu'"]),
    ("CPU_FALLBACK", "perhaps", ["boolean"]),
    ("SWEEP_SECONDS", "0", ["greater than 0"]),
    ("DATA_DIR", "", ["Received: an empty one"]),
    ("DATABASE_URL", "", ["Received: an empty one"]),
    ("REDIS_URL", "", ["Received: an empty one"]),
    ("REDIS_URL", "http://u:hunter2@x", ["redis://"]),
    ("REDIS_URL", "unix:///run/redis.sock", ["redis+socket:///PATH"]),
    ("REDIS_URL", "redis://:hunter2@", ["redis://"]),
    ("REDIS_URL", "redis://:hunter2/3@host", ["redis://"]),
    ("REDIS_URL", "redis://host:port", ["redis://"]),
    ("REDIS_URL", "redis://host/zero", ["redis://"]),
    ("REDIS_URL", "redis+socket://run/redis.sock", ["redis+socket:///PATH"]),
])
def test_a_malformed_value_is_one_line_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: list[str],
) -> None:
    monkeypatch.setenv(f"CATDOG_{variable}", value)
    with pytest.raises(BadSettings) as caught:
        Settings.load()
    message = caught.value.message
    assert message.startswith(f"CATDOG_{variable}: ") and "\n" not in message and "hunter2" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize("url", [
    "redis://127.0.0.1", "redis://:p%40ss@redis:6379/0", "rediss://user:p@redis.example:6380/1", "redis+socket:///run/redis.sock",
])
def test_what_kombu_takes_for_a_redis_is_taken(url: str) -> None:
    assert Settings.load(redis_url=url).redis_url == url
    assert Connection(url).transport_cls in ("redis", "rediss")  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(("url", "shown"), [
    ("redis://user:hunter2@127.0.0.1:1/0", "redis://user:***@127.0.0.1:1/0"),
    ("postgresql+psycopg://u:hun/ter@2@h/db?sslpassword=hunter2&x=1", "postgresql+psycopg://u:***@h/db?sslpassword=***&x=1"),
    ("postgresql://h/db?user=u&password=hunter2", "postgresql://h/db?user=u&password=***"),
])
def test_a_password_is_not_shown(url: str, shown: str) -> None:
    assert Settings.load(database_url=url).shown("database_url") == shown


@pytest.mark.parametrize("content", [None, "", "\n", "  \nsecond line that is long enough", "fifteen letters"])
def test_a_token_that_is_missing_or_too_short_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "token").write_text(content)
    with pytest.raises(BadSettings, match="CATDOG_TOKEN_FILE: Expected"):
        Settings.load(token_file=tmp_path / "token").token()


def test_the_token_is_the_first_line(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(" sixteen letters! \nanother line\n")
    settings = Settings.load(token_file=tmp_path / "token")
    assert settings.token() == "sixteen letters!" and settings.authorization == {"Authorization": "Bearer sixteen letters!"}
    assert Settings.load().token() is None and Settings.load().authorization == {}


def as_stranger(code: str) -> str:
    """Run code in a process of its own, where drop() becomes an arbitrary user of group 0; return what it printed, or its BadSettings.

    Where the tests do not run as root it stays who it is.
    """
    program = f"""
import os, stat, sys
from pathlib import Path
from catdog.errors import BadSettings
from catdog.settings import Settings
def drop(user=54321):
    if os.getuid() == 0:
        os.setgroups([]), os.setgid(0), os.setuid(user)
    os.environ.pop("HOME", None)
try:
{indent(dedent(code), "    ")}
except BadSettings as error:
    print(error.message, error.remedy)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_data_folder_that_cannot_be_written_is_refused_with_owner_and_mode(open_path: Path) -> None:
    data = open_path / "data"
    data.mkdir()
    data.chmod(0o555)
    refused = as_stranger(f"drop(); Settings.load(data_dir={str(data)!r}).make_folders()")
    assert f"{data} (owner {os.getuid()}:{data.stat().st_gid}, mode 0555)" in refused and "chown" in refused and "\n" not in refused
    refused = as_stranger(f"drop(); Settings.load(data_dir={str(data / 'more')!r}).make_folders()")
    assert f"{data / 'more'} (Permission denied)" in refused and "mode 0555" in refused and "\n" not in refused


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o2772])
@pytest.mark.parametrize("name", ["", "models"])
def test_a_data_folder_that_everybody_may_write_into_is_refused(tmp_path: Path, mode: int, name: str) -> None:
    folder = tmp_path / "data" / name
    folder.mkdir(parents=True)
    folder.chmod(mode)
    with pytest.raises(BadSettings, match=f"mode {mode:04o}") as caught:
        Settings.load(data_dir=tmp_path / "data").make_folders()
    assert caught.value.remedy == f"Run: chmod o-w {folder}"


def test_a_folder_with_the_setgid_bit_is_shared_with_its_group(open_path: Path) -> None:
    data = open_path / "data"
    data.mkdir()
    data.chmod(0o2770)
    made = as_stranger(f"""
        os.umask(0o022)
        drop()
        settings = Settings.load(data_dir={str(data)!r})
        settings.make_folders()
        (settings.runs / "file").touch()
        (settings.runs / "folder").mkdir()
        for path in (settings.runs, settings.runs / "folder", settings.runs / "file", settings.root / "catdog.sqlite"):
            print(oct(stat.S_IMODE(path.stat().st_mode)))
    """)
    assert made.split() == ["0o2770", "0o2770", "0o660", "0o660"]
    again = as_stranger(f"""
        drop(54322)
        settings = Settings.load(data_dir={str(data)!r})
        settings.make_folders()
        print((settings.runs / "file").open("a").writable(), (settings.runs / "folder").rmdir())
    """)
    assert again == "True None"


def test_a_folder_of_ones_own_stays_so(tmp_path: Path) -> None:
    made = as_stranger(f"""
        os.umask(0o022)
        settings = Settings.load(data_dir={str(tmp_path / "data")!r})
        settings.make_folders()
        print(oct(stat.S_IMODE(settings.runs.stat().st_mode)), oct(os.umask(0)), (settings.root / "catdog.sqlite").exists())
    """)
    assert made == "0o750 0o22 False"


def test_without_a_home_a_tilde_is_refused_and_nothing_else(open_path: Path) -> None:
    refused = as_stranger("drop(); Settings.load(weights_dir='~/weights')")
    if os.getuid() == 0:
        assert refused.startswith("CATDOG_WEIGHTS_DIR: Expected a path without ~") and "\n" not in refused
    assert as_stranger(f"drop(); print(Settings.load(data_dir={str(open_path)!r}).root)") == str(open_path)


def test_onnx_runtime_reports_to_nobody(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ORT_")} | {"HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", "import catdog.settings, onnxruntime"], env=environment, check=True, cwd=ROOT)
    assert list(tmp_path.iterdir()) == []


def test_a_data_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(BadSettings, match="Received"):
        Settings.load(data_dir=tmp_path / "data").make_folders()
