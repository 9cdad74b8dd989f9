"""labels.py: what a label is, and where one stands in a name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catdog.errors import BadDataset
from catdog.labels import label_of_filename, listed, natural

LETTERS = st.characters(categories=["L"])
NO_LETTERS = st.text(st.characters(categories=("Nd", "Pd", "Pc", "Zs"), include_characters="."), max_size=6)


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


def test_people_count_in_numbers() -> None:
    assert sorted(["cat.10.jpg", "cat.9.jpg", "Cat.1.jpg"], key=natural) == ["Cat.1.jpg", "cat.9.jpg", "cat.10.jpg"]
    assert listed(["a", "b", "c"], most=2) == "a, b and 1 more"
