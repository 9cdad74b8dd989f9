"""files: whole or not there."""

import hashlib
from pathlib import Path

import pytest

from catdog.files import sha256_of, write_atomically


def test_a_written_file_is_there_and_nothing_else(tmp_path: Path) -> None:
    with write_atomically(tmp_path / "a.json") as unfinished:
        unfinished.write_text("new")
        assert not (tmp_path / "a.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert sha256_of(tmp_path / "a.json") == hashlib.sha256(b"new").hexdigest()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("old")
    with pytest.raises(RuntimeError), write_atomically(tmp_path / "a.json") as unfinished:
        unfinished.write_text("half")
        raise RuntimeError
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.json", "old")]
