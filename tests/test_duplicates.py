"""duplicates.py: copies are found however they were saved, and pictures of their own are left alone."""

import io
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from catdog.drawing import LABELS, draw_picture
from catdog.duplicates import MAX_BUCKET, MAX_DISTANCE, MIN_CORRELATION, SIDE, _hashes, groups, same, thumbnail
from catdog.images import decode


def saved(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return decode(buffer.getvalue())


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "saved again": lambda image: saved(image, 40),
    "half the size": lambda image: saved(image.resize((image.width // 2, image.height // 2)), 85),
    "twice the size": lambda image: image.resize((image.width * 2, image.height * 2)),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "darker": lambda image: image.point([value * 3 // 4 for value in range(256)] * 3),
}


def stacked(images: list[Image.Image]) -> NDArray[np.uint8]:
    return np.stack([thumbnail(image) for image in images])


@pytest.mark.parametrize("how", COPIES)
def test_copies_of_photographs_are_found_and_nothing_else(how: str, shared_data: Callable[..., Path]) -> None:
    originals = [decode(path.read_bytes()) for path in sorted(shared_data("dogs_vs_cats", "val").iterdir())[::10]]
    found = groups(stacked([*originals, *map(COPIES[how], originals)]))
    assert found.members == [[position, position + len(originals)] for position in range(len(originals))]
    assert found.uniform == []


def test_drawn_pictures_are_all_different() -> None:
    from random import Random

    drawn = [draw_picture(label, Random(f"{label}{turn}"), 64) for turn in range(60) for label in LABELS]
    assert groups(stacked(drawn)).members == []


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), number=st.integers(2, 30))
def test_what_comparing_all_with_all_finds_is_found(seed: int, number: int) -> None:
    """On pictures that are made so that many are close: few sources, noise of every strength, some mirrored."""
    random = np.random.default_rng(seed)
    sources = random.integers(0, 256, (4, 8, 8)).repeat(4, axis=1).repeat(4, axis=2)
    pictures = sources[random.integers(0, 4, number)] + random.normal(0, random.choice([1, 8, 30], (number, 1, 1)), (number, SIDE, SIDE))
    pictures[: number // 3] = pictures[: number // 3, :, ::-1]
    thumbnails = pictures.clip(0, 255).astype(np.uint8)
    upright, mirrored = _hashes(thumbnails), _hashes(thumbnails[:, :, ::-1])
    alike = {
        (one, other) for one, other in combinations(range(number), 2)
        for hashes, picture in ((upright, thumbnails[other]), (mirrored, thumbnails[other][:, ::-1]))
        if np.bitwise_count(upright[one] ^ hashes[other]) <= MAX_DISTANCE and same(thumbnails[one], picture)
    }
    found = groups(thumbnails)
    if found.uniform:  # a bucket was too full
        return
    together = {pair for group in found.members for pair in combinations(group, 2)}
    assert alike <= together
    for group in found.members:  # closed, and by confirmed pairs alone
        reached, new = {group[0]}, True
        while new:
            new = {b for pair in alike for a, b in (pair, pair[::-1]) if a in reached} - reached  # type: ignore[assignment]
            reached |= new  # type: ignore[arg-type]
        assert reached == set(group)


def test_flat_pictures_and_crowds_are_too_uniform_to_tell() -> None:
    flat = stacked([Image.new("RGB", (64, 64), (grey, grey, grey)) for grey in range(100, 110)])
    assert groups(flat).members == [] and groups(flat).uniform == [*range(10)]
    ramp = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (SIDE, 1))
    noise = np.random.default_rng(0).integers(0, 3, (MAX_BUCKET + 1, SIDE, SIDE), dtype=np.uint8)
    crowd = groups(np.minimum(ramp, 250) + noise)
    assert crowd.members == [] and crowd.uniform == [*range(MAX_BUCKET + 1)]
    assert groups(flat[:0]).members == []


def ramps(number: int, seed: int = 0) -> NDArray[np.uint8]:
    """Pictures that all hash alike, and differ by a little noise."""
    noise = np.random.default_rng(seed).integers(0, 3, (number, SIDE, SIDE), dtype=np.uint8)
    return np.minimum(np.tile(np.arange(0, 256, 8, dtype=np.uint8), (SIDE, 1)), 250) + noise


def test_equal_thumbnails_are_one_group_however_many_they_are() -> None:
    crowd = np.concatenate([ramps(1).repeat(MAX_BUCKET + 10, axis=0), ramps(2, seed=1)])
    found = groups(crowd)
    assert found.members == [[*range(MAX_BUCKET + 10)]] and found.uniform == [MAX_BUCKET + 10, MAX_BUCKET + 11]
    flat = np.full((60, SIDE, SIDE), 100, dtype=np.uint8)  # equal, and tell nothing
    assert groups(flat).members == [] and groups(flat).uniform == [*range(60)]


def round_thing(number: int) -> Image.Image:
    """A dark disc on white with a pattern of its own on it: its silhouette is every other one's."""
    random = np.random.default_rng(number)
    pattern = Image.fromarray(random.integers(0, 90, (6, 6), dtype=np.uint8)).resize((128, 128), Image.Resampling.BICUBIC)
    y, x = np.mgrid[:128, :128]
    disc = (x - 64) ** 2 + (y - 64) ** 2 < 48**2
    return Image.fromarray(np.where(disc, np.asarray(pattern), 250).astype(np.uint8)).convert("RGB")


def test_things_of_one_silhouette_are_not_one_thing() -> None:
    things = [round_thing(number) for number in range(12)]
    thumbnails = stacked(things)
    whole = [np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in combinations(thumbnails, 2)]
    assert min(whole) > 0.9 and max(whole) > MIN_CORRELATION  # by the whole some are copies
    assert groups(thumbnails).members == []
    assert groups(stacked([*things, *map(COPIES["saved again"], things)])).members == [[number, number + 12] for number in range(12)]
