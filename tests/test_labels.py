"""labels.py: label and split from names alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catdog.errors import BadDataset
from catdog.labels import label_of_filename, left_out, listed, natural, plan

CATS = [f"cat.{number}.jpg" for number in range(4)]
DOGS = [f"dog.{number}.jpg" for number in range(4)]
LETTERS = st.characters(categories=["L"])
NO_LETTERS = st.text(st.characters(categories=("Nd", "Pd", "Pc", "Zs"), include_characters="."), max_size=6)


def folders(*names: str) -> list[str]:
    return [f"{name}/{number}.jpg" for name in names for number in range(4)]


def labels_of(names: list[str], **options: object) -> dict[str, str]:
    return {picture.name: picture.label for picture in plan(names, **options)}  # type: ignore[arg-type]


def refusal(names: list[str], **options: object) -> BadDataset:
    with pytest.raises(BadDataset) as caught:
        plan(names, **options)  # type: ignore[arg-type]
    assert "Expected" in caught.value.message and "Received: " in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("cat.12.jpg", "cat"), ("Cat12.JPG", "cat"), ("my_cat_1.png", "cat"), ("catalog_dog.jpg", "dog"), ("dogs/cat.1.jpg", "cat"),
        ("the-DOG.jpeg", "dog"), ("12dog34.bmp", "dog"), ("cat.cat.2.jpg", "cat"), ("hotdog dog.gif", "dog"),
    ],
)
def test_a_label_is_a_word_of_the_base_name(name: str, label: str) -> None:
    assert label_of_filename(name, ("cat", "dog")) == label


@pytest.mark.parametrize(
    "name", ["catdog.jpg", "dog_vs_cat.jpg", "catalog.jpg", "cats.1.jpg", "1.jpg", "cat/1.jpg", "écat.jpg", "hotdog.png"],
)
def test_a_name_that_does_not_say_one_label_is_refused_by_name(name: str) -> None:
    with pytest.raises(BadDataset) as caught:
        label_of_filename(name, ("cat", "dog"))
    assert name in caught.value.message and caught.value.offenders == [name]


@given(before=NO_LETTERS, after=NO_LETTERS)
def test_what_is_no_letter_parts_words(before: str, after: str) -> None:
    assert label_of_filename(f"{before}cat{after}.jpg", ("cat", "dog")) == "cat"


@given(letter=LETTERS)
def test_a_letter_beside_the_word_makes_it_another_word(letter: str) -> None:
    for name in (f"{letter}cat.1.jpg", f"cat{letter}.1.jpg"):
        with pytest.raises(BadDataset):
            label_of_filename(name, ("cat", "dog"))


def test_the_workshops_layout() -> None:
    names = [f"subset/{split}/{name}" for split in ("train", "validation", "TEST") for name in (*CATS, *DOGS)]
    planned = plan(names)
    assert {(picture.split, picture.label) for picture in planned} == {(s, x) for s in ("train", "val", "test") for x in ("cat", "dog")}
    assert all(picture.label in picture.name.rpartition("/")[2] for picture in planned)
    assert sorted(picture.name for picture in planned) == sorted(names)


def test_two_label_folders_win_over_names() -> None:
    assert labels_of(["pets/tabby/dog.1.jpg", *folders("pets/tabby", "pets/siamese")])["pets/tabby/dog.1.jpg"] == "tabby"


def test_label_folders_below_split_folders() -> None:
    planned = plan(folders("train/a", "train/b", "val/a", "val/b", "test/a/deep", "test/b"))
    assert {(picture.split, picture.label) for picture in planned} == {(s, x) for s in ("train", "val", "test") for x in ("a", "b")}


def test_spellings_of_one_folder_are_one_label() -> None:
    assert set(labels_of(folders("train/Cat", "train/dog", "val/cat", "val/dog")).values()) == {"Cat", "dog"}


def test_folders_count_only_if_they_are_among_the_labels_asked_for() -> None:
    names = [f"batch{number % 2}/{name}" for number, name in enumerate((*CATS, *DOGS))]
    assert set(labels_of(names, labels=["cat", "dog"]).values()) == {"cat", "dog"}
    assert "bird" in refusal(folders("cat", "dog", "bird"), labels=["cat", "dog"]).offenders[0]


def test_a_folder_of_one_label_is_no_root() -> None:
    assert "all of cat" in refusal(folders("cat"), rule="folder").message


def test_the_filename_rule_does_not_look_at_folders() -> None:
    assert labels_of([f"dog/{name}" for name in CATS] + [f"cat/{name}" for name in DOGS], rule="filename")["dog/cat.0.jpg"] == "cat"


def test_litter_is_ignored_and_other_files_are_listed() -> None:
    names = [*CATS, *DOGS, "README.txt", "__MACOSX/._cat.1.jpg", ".DS_Store", "Thumbs.db", "a/.hidden/cat.jpg", "sub/"]
    assert len(plan(names)) == 8
    assert [entry["name"] for entry in left_out(names)] == ["README.txt"]


def test_ambiguous_and_unlabelled_names_are_listed_together_up_to_twenty() -> None:
    error = refusal([*CATS, *DOGS, "catdog.jpg", *(f"dog_cat.{number}.jpg" for number in range(30))])
    assert "30 ambiguous" in error.message and "1 unlabelled (catdog.jpg)" in error.message
    assert len(error.offenders) == 20 and "catdog.jpg" in error.offenders


@pytest.mark.parametrize(
    ("names", "options", "said"),
    [
        ([], {}, "no files"),
        (["notes.txt"], {}, "none among 1 files"),
        (CATS, {}, "all of cat"),
        ([*CATS, *DOGS], {"labels": ["cat", "dog", "bird"]}, "none of bird"),
        ([*CATS, *DOGS], {"labels": ["cat"]}, "1 (cat)"),
        ([*CATS, *DOGS], {"labels": ["cat", "CAT"]}, "2 (cat, CAT)"),
        ([*CATS, *DOGS], {"labels": ["cat", "do\ng"]}, "'do\\ng'"),
        ([*CATS, "dog.1.jpg"], {}, "of 1"),
        ([*(f"train/{name}" for name in (*CATS, *DOGS)), "cat.9.jpg"], {}, "1 outside (cat.9.jpg)"),
        ([f"{split}/{name}" for split in ("val", "test") for name in (*CATS, *DOGS)], {}, "0 in train"),
        ([*folders("cat", "dog"), "stray.jpg"], {}, "1 elsewhere (stray.jpg)"),
    ],
)
def test_what_makes_no_data_set(names: list[str], options: dict[str, object], said: str) -> None:
    assert said in refusal(names, **options).message


@given(st.permutations([*CATS, *DOGS, "x/readme.md"]))
def test_the_order_of_names_does_not_matter(names: list[str]) -> None:
    assert plan(names) == plan(sorted(names))


def test_people_count_in_numbers() -> None:
    assert sorted(["cat.10.jpg", "cat.9.jpg", "Cat.1.jpg"], key=natural) == ["Cat.1.jpg", "cat.9.jpg", "cat.10.jpg"]
    assert listed(["a", "b", "c"], most=2) == "a, b and 1 more"


def test_many_labels_are_not_looked_for_in_names() -> None:
    """Each would be looked for in each of 100,000 names, in the service, before the uploader has an answer."""
    labels = [f"label{number}" for number in range(1000)]
    with pytest.raises(BadDataset, match="at most 50 labels in file names"):
        plan([f"{label}.jpg" for label in labels], labels, "filename")
