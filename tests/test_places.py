"""places.py: which folders are splits, which are labels, and which only lie around everything."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catdog.errors import BadDataset
from catdog.places import around, check_splits, is_litter, is_picture, places, split_named

SPELLINGS = {
    "train": ("train", "Training", "TRAINING_SET", "train_set"),
    "val": ("val", "Valid", "validation", "validation_set", "val_set", "DEV"),
    "test": ("test", "testing", "Test_Set", "eval"),
}


def found(*names: str, labels: tuple[str, ...] = ()) -> list[tuple[str | None, str | None]]:
    return [(place.split, place.folder) for place in places(names, labels)]


def test_the_names_that_people_give_to_split_folders() -> None:
    for split, names in SPELLINGS.items():
        assert {split_named(name) for name in names} == {split}
        for name in names:
            assert found(f"{name}/cat/1.jpg", "train/dog/1.jpg")[0] == (split, "cat")
    assert {split_named(name) for name in ("", "trained", "test1", "values", "cat", "train/x")} == {None}


@pytest.mark.parametrize("around_all", ["", "pets/", "a/b/", "data/2024/photos/"])
def test_folders_around_everything_are_looked_through(around_all: str) -> None:
    assert found(f"{around_all}cat/1.jpg", f"{around_all}dog/1.jpg") == [(None, "cat"), (None, "dog")]
    assert found(f"{around_all}cat/1.jpg", f"{around_all}cat/x/y/2.jpg", f"{around_all}dog/1.jpg")[1] == (None, "cat")
    splits = found(f"{around_all}train/cat/1.jpg", f"{around_all}val/cat/1.jpg", f"{around_all}test/2.jpg")
    assert splits == [("train", "cat"), ("val", "cat"), ("test", None)]
    assert found(f"{around_all}train/cat/1.jpg", f"{around_all}train/cat/2.jpg") == [("train", "cat")] * 2
    assert found(f"{around_all}cat.1.jpg", f"{around_all}sub/dog.1.jpg") == [(None, None), (None, "sub")]


def test_the_innermost_folder_around_everything_may_be_the_only_label() -> None:
    assert found("pets/cat/1.jpg", "pets/cat/2.jpg") == [(None, "cat")] * 2
    assert found("1.jpg", "2.jpg") == [(None, None)] * 2


def test_a_folder_whose_name_is_among_the_labels_is_no_split() -> None:
    names = ("dev/1.jpg", "test/1.jpg", "train/1.jpg")
    assert found(*names, labels=("Dev", "test", "train")) == [(None, "dev"), (None, "test"), (None, "train")]
    assert found(*names, labels=("a", "b")) == [("val", None), ("test", None), ("train", None)]
    assert found("train/test/1.jpg", "val/test/1.jpg", labels=("test", "a")) == [("train", "test"), ("val", "test")]


@pytest.mark.parametrize("stray", ["cat/train/1.jpg", "cat/x/Validation/1.jpg", "train/cat/test/1.jpg", "train/val/1.jpg"])
def test_a_split_folder_that_is_not_outermost_is_refused(stray: str) -> None:
    split = stray.startswith("train")
    names = [stray, *(("train/dog/2.jpg", "test/dog/2.jpg") if split else ("dog/2.jpg", "dog/3.jpg"))]
    with pytest.raises(BadDataset, match="above the label folders") as caught:
        check_splits(places(names))
    assert caught.value.offenders == [stray] and "outermost" in caught.value.remedy
    check_splits(places([name for name in names if name != stray]))


def test_some_pictures_outside_split_folders_are_refused_and_labels_are_the_way_out() -> None:
    names = ("train/1.jpg", "val/1.jpg", "bird/1.jpg")
    with pytest.raises(BadDataset, match=r"1 outside \(bird/1.jpg\)") as caught:
        check_splits(places(names))
    assert "labels=" in caught.value.remedy and caught.value.offenders == ["bird/1.jpg"]
    check_splits(places(names, ("train", "val", "bird")))


@given(st.lists(st.lists(st.sampled_from(["a", "b", "train", "val", "cat"]), max_size=4), min_size=1, max_size=6))
def test_every_picture_has_one_place_in_order(folders: list[list[str]]) -> None:
    names = ["/".join([*parts, f"{number}.jpg"]) for number, parts in enumerate(folders)]
    assert [place.name for place in places(names)] == names
    assert all(name.startswith("".join(f"{folder}/" for folder in around(names))) for name in names)
    for place, parts in zip(places(names), folders, strict=True):
        assert place.folder is None or place.folder in parts
        assert place.split is None or place.split in parts


def test_what_a_system_left_and_what_is_a_picture() -> None:
    assert all(map(is_litter, (".DS_Store", "__MACOSX/._cat.jpg", "a/.hidden/cat.jpg", "a/Thumbs.db", "desktop.INI")))
    assert not is_litter("a/cat.jpg") and not is_litter("thumbs.db.jpg")
    assert is_picture("a/CAT.JPG") and is_picture("x.jfif") and not is_picture("cat.heic") and not is_picture("jpg")
