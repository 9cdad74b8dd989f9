"""demo: `make demo` as a new user runs it, without a terminal and without a network."""

import re
import subprocess
import zipfile
from collections import Counter
from pathlib import Path

import psutil
import pytest

from catdog import demo
from catdog.plans import plan
from catdog.settings import Settings
from tests.living import command_line


@pytest.mark.long
def test_on_drawn_pictures_it_ends_with_its_one_line_and_leaves_nothing_running(tmp_path: Path) -> None:
    settings = Settings.load(data_dir=tmp_path / "data")
    proxy = {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}  # nobody listens: there is no network
    done = command_line("demo", settings=settings, extra=proxy, timeout=500, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    found = re.fullmatch(r"demo: test_accuracy=(\d\.\d+) train_seconds=(\d+\.\d) model=1", last)
    assert found and float(found[1]) >= 0.9, last
    said = r"^  (?:cat|dog)\.\d+\.jpg: (?:cat|dog|no label, (?:unsure|unfamiliar)) \(\d\.\d+\)$"
    assert len(re.findall(said, done.stdout, re.MULTILINE)) == 10
    right = re.search(r"^(\d+) of 10 right", done.stdout, re.MULTILINE)
    assert right and int(right[1]) >= 8, done.stdout
    assert "drawing pictures instead" in done.stdout
    assert not [p.cmdline() for p in psutil.process_iter() if belongs_to(p, tmp_path)]


def belongs_to(process: psutil.Process, folder: Path) -> bool:
    """Whether a process was started with a data folder below `folder`."""
    try:
        return process.environ().get("CATDOG_DATA_DIR", "").startswith(str(folder))
    except psutil.Error:
        return False


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        ([f"{label}.{n}.jpg" for label in ("cat", "dog") for n in range(100)], 10),
        ([f"cat.{n}.jpg" for n in range(10)] + [f"dog.{n}.jpg" for n in range(9)], 3),
        ([f"{label}/{n}.jpg" for label in ("tabby", "poodle", "horse") for n in range(30)], 10),
        ([f"{split}/{label}.{n}.jpg" for split in ("train", "test") for label in ("cat", "dog") for n in range(20)], 10),
    ],
)
def test_what_is_kept_back_leaves_enough_of_every_label(tmp_path: Path, names: list[str], kept: int) -> None:
    for name in names:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    chosen = demo._kept_back(tmp_path / "photos")
    assert len(chosen) == kept and len({picture.label for picture in chosen}) >= 2
    demo._pack(tmp_path / "photos", tmp_path / "photos.zip", without=chosen)
    packed = zipfile.ZipFile(tmp_path / "photos.zip").namelist()
    uploaded = [picture for picture in chosen if picture.name in packed]
    assert all(picture.split == "test" for picture in uploaded)
    counts = Counter(picture.label for picture in plan(packed).pictures)
    before = Counter(picture.label for picture in plan(names).pictures)
    assert all(counts[label] >= 0.6 * before[label] for label in before)


def test_a_folder_without_pictures_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    done = command_line("demo", "--data", str(tmp_path / "photos"), settings=Settings.load(data_dir=tmp_path / "data"))
    assert done.returncode == 2 and "Expected pictures" in done.stderr
    assert not (tmp_path / "data" / "service.json").exists()
