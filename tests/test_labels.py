"""labels.py: what a label is, and where one stands in a name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catdog.errors import BadDataset
from catdog.labels import MAX_LABEL_LENGTH, label_of_filename, labels_in, listed, natural, shown

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


@pytest.mark.parametrize(("name", "labels", "found"), [
    ("new york-1.jpg", ("new york", "york", "new"), ["new york", "york", "new"]), ("cat23.jpg", ("cat2", "cat"), ["cat2", "cat"]),
    ("cat2x.jpg", ("cat2", "cat"), ["cat"]), ("C++_1.jpg", ("c", "c++"), ["c", "c++"]), ("a.c++.jpg", ("a.c", "a", "(a|b)"), ["a.c", "a"]),
    ("CAFE\u0301 1.jpg", ("caf\u00e9",), ["caf\u00e9"]), ("stra\u00dfe.jpg", ("STRASSE",), ["STRASSE"]), ("\u0130cat.jpg", ("cat",), []),
    ("\u2764\ufe0fcat\U0001f408.jpg", ("cat",), ["cat"]), ("cat/dog.jpg", ("cat", "dog"), ["dog"]),
    ("\u732b.\u72ac.jpg", ("\u732b", "\u72ac"), ["\u732b", "\u72ac"]),
])
def test_labels_are_found_as_they_are_meant(name: str, labels: tuple[str, ...], found: list[str]) -> None:
    assert labels_in(name, labels) == found


@pytest.mark.parametrize("letters", ["\u4e00\u732b\u72ac\u9f98", "ab", "\U0001f408\U0001f415+."])
def test_the_longest_labels_are_found_too(letters: str) -> None:
    """As many and as long as an uploader may send, of letters that need several bytes; an engine that gives up would find none."""
    number = {turn: "".join(letters[turn // len(letters) ** place % len(letters)] for place in range(6)) for turn in range(50)}
    labels = tuple((number[turn] + letters[0] * MAX_LABEL_LENGTH)[:MAX_LABEL_LENGTH] for turn in range(50))
    assert len(set(labels)) == 50
    for label in labels:
        assert labels_in(f"{letters[1] * 70}-{label}-1.jpg", labels)[0] == label or label in labels_in(f"9-{label}-1.jpg", labels)
    assert labels_in("9." + ".".join(labels), labels) == list(labels)


def test_a_strangers_text_is_shown_without_what_would_be_obeyed() -> None:
    assert shown("a\x1b[31m\u202eb\n\x07\udce9") == "a\\x1b[31m\\u202eb\\n\\x07\\udce9"
    assert shown("caf\u00e9 \u732b <b> {x} \\n") == "caf\u00e9 \u732b <b> {x} \\n"
