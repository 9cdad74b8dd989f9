"""demo: `make demo` as a new user runs it, without a terminal and without a network."""

import re
from pathlib import Path

import psutil
import pytest

from catdog.settings import Settings
from tests.living import command_line


@pytest.mark.long
def test_on_drawn_pictures_it_ends_with_its_one_line_and_leaves_nothing_running(tmp_path: Path) -> None:
    settings = Settings.load(data_dir=tmp_path / "data")
    done = command_line("demo", settings=settings, timeout=500)
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    found = re.fullmatch(r"demo: test_accuracy=(\d\.\d+) train_seconds=(\d+\.\d) model=1", last)
    assert found and float(found[1]) >= 0.9, last
    assert len(re.findall(r"^  (?:cat|dog)\.\d+\.jpg: (?:cat|dog) ", done.stdout, re.MULTILINE)) == 10
    assert not [p for p in psutil.process_iter() if str(tmp_path) in " ".join(p.cmdline())]


def test_a_folder_without_pictures_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    done = command_line("demo", "--data", str(tmp_path / "photos"), settings=Settings.load(data_dir=tmp_path / "data"))
    assert done.returncode == 2 and "Expected pictures" in done.stderr
    assert not (tmp_path / "data" / "service.json").exists()
