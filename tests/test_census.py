"""census.py: every planned picture is in the records or listed with its reason."""

import io
from pathlib import Path
from random import Random

from PIL import Image

from catdog.census import take
from catdog.drawing import LABELS, draw_picture
from catdog.errors import BadImage
from catdog.plans import Labelling, plan
from tests.pictures import pets


def encoded(image: Image.Image, quality: int = 95) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def drawn(number: int, label: str = LABELS[0]) -> Image.Image:
    return draw_picture(label, Random(f"{label}{number}"), 64)


def split_folders() -> dict[str, bytes]:
    """Drawn pictures, three of each label in each split."""
    return {
        f"{split}/{label}.{turn}{number}.jpg": encoded(drawn(10 * turn + number, label))
        for turn, split in enumerate(("train", "val", "test")) for label in LABELS for number in range(3)
    }


def test_a_conflict_names_what_is_left_out_because_it_leaks() -> None:
    """In train a cat, in test the same picture as a dog: the one in train is left out, and that the labels differ is said all the same."""
    files = split_folders() | {"train/cat.copy.jpg": encoded(drawn(20, LABELS[1]), quality=60)}
    assert LABELS == ("cat", "dog")
    census = take(plan(list(files)), files.__getitem__, lambda _: None, seed=0)
    assert [(one.name, one.kind) for one in census.refused] == [("train/cat.copy.jpg", "leak")] and census.problems == []
    (conflict,) = census.conflicts
    assert {(record.name, record.label, record.split) for record in conflict} == {
        ("train/cat.copy.jpg", "cat", ""), ("test/dog.20.jpg", "dog", "test"),
    }
    assert census.groups == []  # none of one split
    agreeing = split_folders() | {"train/dog.copy.jpg": encoded(drawn(20, LABELS[1]), quality=60)}
    assert take(plan(list(agreeing)), agreeing.__getitem__, lambda _: None, seed=0).conflicts == []


def test_what_cannot_be_read_is_listed_and_its_label_bears_it() -> None:
    files = pets(10)

    def read(name: str) -> bytes:
        if name in ("cat.3.png", "dog.1.png", "dog.2.png", "dog.3.png"):
            raise BadImage(f"Expected a file that can be read. Received: {name} (Permission denied).")
        return files[name]

    census = take(plan(list(files)), read, lambda _: None, seed=0)
    assert [(one.name, one.kind) for one in census.refused] == [
        (name, "unreadable") for name in ("cat.3.png", "dog.1.png", "dog.2.png", "dog.3.png")
    ]
    (problem,) = census.problems
    assert "3 of 10 (dog.1.png, dog.2.png, dog.3.png)" in problem.message and "Permission denied" in problem.message


def test_a_label_of_a_few_groups_is_refused_with_the_reason(tmp_path: Path) -> None:
    copies = {f"cat.{number}{quality}.jpg": encoded(drawn(number), quality) for number in range(2) for quality in range(50, 90, 10)}
    files = copies | {f"dog.{number}.jpg": encoded(drawn(number, LABELS[1])) for number in range(6)}
    census = take(plan(list(files), Labelling(rule="filename")), files.__getitem__, lambda _: None, seed=0, scratch=tmp_path)
    (problem,) = census.problems
    assert "8 of them in 2 groups that show the same and stay together" in problem.message
    more = files | {f"cat.2{quality}.jpg": encoded(drawn(2), quality) for quality in range(50, 90, 10)}
    assert take(plan(list(more)), more.__getitem__, lambda _: None, seed=0).problems == []
