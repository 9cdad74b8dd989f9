"""folders.py: what a folder of this machine holds, and what of it cannot be read. No file ends the listing."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from catdog.errors import BadDataset, BadImage, TooLarge
from catdog.folders import Folder
from catdog.settings import Settings
from catdog.sources import import_folder
from tests.pictures import lay_out, pets, picture

NOBODY = 65_534


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that anybody can reach: pytest's own are its user's alone."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextmanager
def unprivileged() -> Iterator[None]:
    """As somebody whom file modes bind: root reads everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", max_image_bytes=1000, max_archive_files=20)


def strange(folder: Folder) -> dict[str, str]:
    return {one.name: one.kind for one in folder.strange}


@pytest.mark.parametrize("mode", [0o000, 0o444])
def test_a_folder_that_cannot_be_opened_is_listed_and_the_rest_is_read(mode: int, place: Path, settings: Settings) -> None:
    """Not at all, or its names only."""
    lay_out(place, {"cat/1.png": picture(1), "locked/2.png": picture(2)})
    (place / "locked").chmod(mode)
    try:
        with unprivileged():
            folder = Folder(place, settings)
            assert folder.names == ["cat/1.png"] and folder.read("cat/1.png") == picture(1)
        assert strange(folder) == {"locked" if mode == 0 else "locked/2.png": "unreadable"}
        assert all("cannot be opened (Permission denied)" in one.reason for one in folder.strange)
    finally:
        (place / "locked").chmod(0o755)


def test_a_file_that_cannot_be_read_is_left_out_and_listed(place: Path, settings: Settings) -> None:
    source = lay_out(place / "source", pets(7))
    (source / "dog.3.png").chmod(0)
    (place / "datasets").mkdir()
    (place / "datasets").chmod(0o777)
    with unprivileged():
        dataset = import_folder(source, place / "datasets", settings=settings)
        (listed,) = dataset.refused
        assert (listed["name"], listed["kind"]) == ("dog.3.png", "unreadable") and "Permission denied" in listed["reason"]
    assert len(dataset.records) == 13


def test_links_to_folders_are_listed_and_not_followed(tmp_path: Path, settings: Settings) -> None:
    lay_out(tmp_path, {"in/cat/1.png": b"", "out/2.png": b""})
    for name, target in (("out", "out"), ("inside", "in/cat"), ("round", "in"), ("gone", "nowhere")):
        (tmp_path / "in" / name).symlink_to(tmp_path / target)
    (tmp_path / "in" / "also.png").symlink_to(tmp_path / "in" / "cat" / "1.png")
    folder = Folder(tmp_path / "in", settings)
    assert sorted(folder.names) == ["also.png", "cat/1.png"]
    assert strange(folder) == dict.fromkeys(("out", "inside", "round", "gone"), "not_regular")
    assert {one.name for one in folder.strange if "link to a folder" in one.reason} == {"out", "inside", "round"}


def gone(path: Path) -> None:
    path.unlink()


def grown(path: Path) -> None:
    path.write_bytes(bytes(1001))


@pytest.mark.parametrize(("change", "error", "said"), [(gone, BadImage, "No such file"), (grown, TooLarge, "1.png with 1001")])
def test_a_file_that_changed_since_it_was_listed(
    change: Callable[[Path], None], error: type[Exception], said: str, tmp_path: Path, settings: Settings,
) -> None:
    folder = Folder(lay_out(tmp_path / "in", {"1.png": b"x"}), settings)
    change(tmp_path / "in" / "1.png")
    with pytest.raises(error, match=said):
        folder.read("1.png")


def test_no_folder_and_too_many_files(tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(BadDataset, match="Expected a folder"):
        Folder(tmp_path / "none", settings)
    with pytest.raises(TooLarge, match="at most 20 files"):
        Folder(lay_out(tmp_path / "in", {f"{number}.png": b"" for number in range(21)}), settings)
