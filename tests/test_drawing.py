"""drawing.py: the project's own pictures."""

from random import Random

import numpy as np
import pytest
from PIL import Image

from catdog.drawing import LABELS, draw_picture


def drawn(label: str, number: int, size: int = 64) -> Image.Image:
    return draw_picture(label, Random(f"{label}:{number}"), size)


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("size", [32, 100, 256])
def test_a_picture_is_rgb_of_the_size_asked_for(label: str, size: int) -> None:
    image = drawn(label, 0, size)
    assert image.mode == "RGB" and image.size == (size, size)


def test_the_same_seed_draws_the_same_picture_and_no_two_are_alike() -> None:
    assert drawn("cat", 3).tobytes() == drawn("cat", 3).tobytes()
    assert len({drawn(label, number).tobytes() for label in LABELS for number in range(30)}) == 60


def test_a_label_that_nobody_can_draw() -> None:
    with pytest.raises(ValueError, match="Received: 'bird'"):
        draw_picture("bird", Random(0), 64)


def test_colour_does_not_tell_cats_from_dogs() -> None:
    """The nearest mean of the mean colours, judged on the very pictures it was taken from, is right on less than 70 %."""
    colours = {label: np.array([np.asarray(drawn(label, number)).mean(axis=(0, 1)) for number in range(60)]) for label in LABELS}
    means = np.stack([colours[label].mean(axis=0) for label in LABELS])
    right = [
        np.linalg.norm(colours[label][:, None] - means[None], axis=2).argmin(axis=1) == target for target, label in enumerate(LABELS)
    ]
    assert np.concatenate(right).mean() < 0.7


def test_shape_does() -> None:
    """Cats have ears above the head, dogs beside it: over many pictures the edges differ more between the two than by chance."""
    edges = {
        label: np.mean([np.abs(np.diff(np.asarray(drawn(label, number).convert("L"), float), axis=0)) for number in range(80)], axis=0)
        for label in LABELS
    }
    halves = [
        np.mean([np.abs(np.diff(np.asarray(drawn("cat", number).convert("L"), float), axis=0)) for number in part], axis=0)
        for part in (range(40), range(40, 80))
    ]
    assert np.abs(edges["cat"] - edges["dog"]).mean() > 1.2 * np.abs(halves[0] - halves[1]).mean() / 2**0.5
