"""settings: defaults that are safe, and refusals that name the variable."""

import os
from pathlib import Path

import pytest

from catdog.errors import BadSettings
from catdog.settings import Settings


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
    settings = Settings.load(token_file=tmp_path / "token", database_url="postgresql://u:secret@localhost/db", data_dir=tmp_path)
    told = {name: value for name, value in settings.run_environment().items() if name.startswith("CATDOG_")}
    assert told == {"CATDOG_DATA_DIR": str(tmp_path), "CATDOG_WEIGHTS_DIR": str(tmp_path / "weights")}
    assert "secret" not in str(settings.run_environment())


def test_children_see_the_same_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.load(data_dir=tmp_path, port=0, lease_seconds=3)
    for name, value in settings.environment().items():
        if name not in os.environ:
            monkeypatch.setenv(name, value)
    assert Settings.load() == settings


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_data_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(BadSettings, match="folder"):
        Settings.load(data_dir=tmp_path / "data").make_folders()


def test_a_data_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(BadSettings, match="Received"):
        Settings.load(data_dir=tmp_path / "data").make_folders()
