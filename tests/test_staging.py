"""staging.py: two processes that make one data set, on hosts that do not see each other's locks: it is whole whoever is how far."""

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from catdog import staging
from catdog.datasets import Dataset
from catdog.errors import Unavailable
from catdog.plans import plan
from catdog.settings import Settings
from catdog.sources import accept
from catdog.staging import build, discard, publish, staged
from service.shelf import EntryState, Shelf
from tests.pictures import pets

PETS = pets(6)
STEPS = 24
"""More renamings than a publication makes, the other one's included."""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings.load(data_dir=tmp_path / "data")
    settings.make_folders()
    return settings


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `build` wrote, to be copied."""
    folder = tmp_path_factory.mktemp("built")
    build(folder, plan(list(PETS)), PETS.__getitem__, lambda _: None, seed=0)
    return folder


def is_whole(place: Path) -> bool:
    return {path.name for path in (place / "images").rglob("*") if path.is_file()} == {one.sha256 for one in Dataset.open(place).records}


class Killed(BaseException):
    """The end of a process, which nothing catches."""


def interrupt(monkeypatch: pytest.MonkeyPatch, step: int, then: Callable[[], None]) -> None:
    """Before the renaming of this number, once, something else happens."""
    done = 0

    def watched(move: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
        def moved(path: Path, target: Path) -> Path:
            nonlocal done
            done += 1
            if done == step:
                then()
            return move(path, target)

        return moved

    for name in ("rename", "replace"):
        monkeypatch.setattr(Path, name, watched(getattr(Path, name)))


@pytest.mark.parametrize("leftover", [False, True], ids=["new", "beside what a killed import left"])
@pytest.mark.parametrize("dies", [False, True], ids=["goes on", "dies"])
def test_whoever_publishes_between_any_two_steps_of_another_the_data_set_is_whole(
    built: Path, tmp_path: Path, dies: bool, leftover: bool,
) -> None:
    for step in range(1, STEPS):
        place = tmp_path / f"ds_{step}"
        late, next_one = (Path(shutil.copytree(built, tmp_path / f"{place.name}.staging-{name}")) for name in ("a", "b"))
        if leftover:
            shutil.copytree(built / "images", place / "images")
            (place / "images" / "zz").mkdir()
            (place / "images" / "zz" / "half").write_bytes(b"half")

        def overtake(next_one: Path = next_one, place: Path = place) -> None:
            publish(next_one, place)
            if dies:
                raise Killed

        with pytest.MonkeyPatch.context() as patch:
            interrupt(patch, step, overtake)
            try:
                publish(late, place)
            except Killed:
                assert dies
        assert is_whole(place), step


def test_who_comes_after_a_publication_and_dies_at_any_step_harms_nothing(built: Path, tmp_path: Path) -> None:
    def die() -> None:
        raise Killed

    for step in range(1, STEPS):
        place = tmp_path / f"ds_{step}"
        late, first = (Path(shutil.copytree(built, tmp_path / f"{place.name}.staging-{name}")) for name in ("a", "b"))
        publish(first, place)
        with pytest.MonkeyPatch.context() as patch:
            interrupt(patch, step, die)
            with contextlib.suppress(Killed):
                publish(late, place)
        assert is_whole(place), step


def test_whoever_refuses_between_any_two_steps_of_a_publication_there_is_a_data_set_or_none(built: Path, settings: Settings) -> None:
    shelf = Shelf(settings.datasets)
    ends = set()
    for step in range(1, 7):
        place = shelf.reserve()
        folder = Path(shutil.copytree(built, place.with_name(f"{place.name}.staging-a")))

        def refuse(place: Path = place) -> None:
            shelf.refuse(place, code="internal", message="m", remedy="r")

        with pytest.MonkeyPatch.context() as patch:
            interrupt(patch, step, refuse)
            try:
                publish(folder, place)
            except FileNotFoundError:
                pass
            else:
                refuse()
        end = shelf.entry(place.name).state
        ends.add(end)
        assert is_whole(place) if end is EntryState.READY else {path.name for path in place.iterdir()} == {"refused.json"}, step
        with pytest.raises(Unavailable, match="was refused"):
            publish(folder, place)
    assert ends == {EntryState.READY, EntryState.REFUSED}


@pytest.mark.parametrize("at", [0, 3, len(PETS) - 1])
def test_who_was_discarded_while_building_stops_and_leaves_nothing(tmp_path: Path, at: int) -> None:
    place = tmp_path / "ds_x"
    names = list(PETS)

    def read(name: str) -> bytes:
        if name == names[at]:
            for folder in tmp_path.glob("*.staging-*"):
                discard(folder)
        return PETS[name]

    with pytest.raises(Unavailable, match="another process"), staged(place) as folder:
        publish(build(folder, plan(names), read, lambda _: None, seed=0).folder, place)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("when", [(1, 40), (40, 40)])
def test_being_discarded_is_no_fault_of_the_pictures(settings: Settings, when: tuple[int, int]) -> None:
    folder = Shelf(settings.datasets).reserve()
    (folder / "request.json").write_text(json.dumps({"source": "drawn", "count": 40}))

    def discard_all(done: int, total: int) -> None:
        if (done, total) == when:
            for left in settings.datasets.glob("*.staging-*"):
                staging.discard(left)

    with pytest.raises(Unavailable):
        accept(folder, settings, progress=discard_all)
    assert {path.name for path in folder.iterdir()} == {"request.json"}
    accept(folder, settings)
    assert is_whole(folder)
