"""augment: a look is a pure function of seed, epoch and content; a view shows the place its look says, and the label stays true."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from catdog.augment import ASPECT, NAMES, PRESETS, Augmentation, Look, _rectangle
from catdog.images import FILL, GEOMETRIES, Preprocess

PLAIN = Look(
    mirrored=False, angle=0, zoom=1, shift=(0, 0), brightness=1, contrast=1, saturation=1, gains=(1, 1, 1), noise=0, erased=None, grain=1,
)
names = st.sampled_from(sorted(PRESETS))
shares = st.floats(0, 1)
contents = st.text("0123456789abcdef", min_size=1, max_size=64)


def ramps(width: int, height: int) -> Image.Image:
    """Red says how far right a pixel is and green how far down, blue is 99: a picture that tells what of it is seen."""
    pixels = np.full((height, width, 3), 99, np.uint8)
    pixels[..., 0] = np.round(np.linspace(0, 255, width))
    pixels[..., 1] = np.round(np.linspace(0, 255, height))[:, np.newaxis]
    return Image.fromarray(pixels)


def test_every_preset_but_none_has_values() -> None:
    assert set(NAMES) == {"none", *PRESETS}


@given(name=names, seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 10**7), content=contents)
def test_a_look_is_the_same_again_and_within_its_bounds(name: str, seed: int, epoch: int, content: str) -> None:
    preset = PRESETS[name]
    look = Look.draw(preset, seed=seed, epoch=epoch, content=content)
    assert look == Look.draw(preset, seed=seed, epoch=epoch, content=content)
    assert abs(look.angle) <= preset.rotation and preset.zoom[0] <= look.zoom <= preset.zoom[1]
    assert max(map(abs, look.shift)) <= preset.shift
    for factor, bound in ((look.brightness, preset.brightness), (look.contrast, preset.contrast), (look.saturation, preset.saturation)):
        assert abs(factor - 1) <= bound + 1e-9
    assert all(abs(gain - 1) <= preset.colour + 1e-9 for gain in look.gains)
    assert 0 <= look.noise <= preset.noise


@given(name=st.sampled_from(["default", "strong"]), area=shares, aspect=shares, left=shares, top=shares)
@example(name="strong", area=1, aspect=0, left=1, top=1)
@example(name="strong", area=1, aspect=1, left=1, top=1)
def test_an_erased_rectangle_lies_in_the_picture(name: str, area: float, aspect: float, left: float, top: float) -> None:
    preset = PRESETS[name]
    x0, y0, x1, y1 = _rectangle(preset, area=area, aspect=aspect, left=left, top=top)
    assert 0 <= x0 <= x1 <= 1 + 1e-9 and 0 <= y0 <= y1 <= 1 + 1e-9
    assert preset.erased[0] - 1e-9 <= (x1 - x0) * (y1 - y0) <= preset.erased[1] + 1e-9
    assert 1 / ASPECT - 1e-9 <= (x1 - x0) / (y1 - y0) <= ASPECT + 1e-9


@given(name=names, epoch=st.integers(0, 1000), content=contents)
def test_the_label_stays_true(name: str, epoch: int, content: str) -> None:
    """The middle of what validation sees is always in view, at least a quarter of it is shown, and two thirds of that uncovered."""
    look = Look.draw(PRESETS[name], seed=0, epoch=epoch, content=content)
    assert math.hypot(*look.shift) * 2 / look.zoom < 1 and abs(look.angle) <= 45
    assert look.zoom**2 >= (0.25 if name == "strong" else 0.5)
    if look.erased is not None:
        assert (look.erased[2] - look.erased[0]) * (look.erased[3] - look.erased[1]) <= 1 / 3


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_no_two_looks_are_alike(name: str) -> None:
    asked = [(seed, epoch, content) for seed in range(3) for epoch in range(40) for content in map(str, range(20))]
    looks = {Look.draw(PRESETS[name], seed=seed, epoch=epoch, content=content) for seed, epoch, content in asked}
    assert len(looks) == len(asked)
    assert len({(look.zoom, look.shift) for look in looks}) == len({look.grain for look in looks}) == len(asked)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_chances_are_kept(name: str) -> None:
    preset, views = PRESETS[name], 2000
    looks = [Look.draw(preset, seed=0, epoch=epoch, content="c") for epoch in range(views)]
    for chance, happened in (
        (preset.mirror, sum(look.mirrored for look in looks)), (preset.noisy, sum(look.noise > 0 for look in looks)),
        (preset.erase, sum(look.erased is not None for look in looks)),
    ):
        assert abs(happened - chance * views) <= 5 * math.sqrt(views * chance * (1 - chance))


def test_a_resumed_run_of_another_day_draws_the_same() -> None:
    """Golden: should these change, a run that is resumed by a new version sees other pictures than the first would have."""
    look = Look.draw(PRESETS["default"], seed=7, epoch=3, content="00ff")
    assert (round(look.angle, 6), round(look.zoom, 6), look.mirrored, look.grain % 10**9) == (5.362218, 1.075001, False, 599748059)


@given(
    width=st.integers(8, 400), height=st.integers(8, 400), side=st.sampled_from([16, 32]), name=names,
    geometry=st.sampled_from(GEOMETRIES), epoch=st.integers(0, 50),
)
def test_a_view_shows_the_place_that_its_look_says(width: int, height: int, side: int, name: str, geometry: Any, epoch: int) -> None:
    image = ramps(width, height)
    augmentation = Augmentation(Preprocess(side, geometry=geometry), PRESETS[name])
    draft = augmentation.draft(image)
    assert draft.shape == (*augmentation.draft_size(width, height)[::-1], 3) and draft.shape[0] <= height and draft.shape[1] <= width
    drawn = Look.draw(PRESETS[name], seed=1, epoch=epoch, content="c")
    look = replace(PLAIN, mirrored=drawn.mirrored, angle=drawn.angle, zoom=drawn.zoom, shift=drawn.shift)
    view = augmentation.view(draft, width, height, look)
    assert view.shape == (side, side, 3) and view.dtype == np.uint8

    # Where each pixel of the view looks, said once more in other words: mirror, turn, zoom about the middle, shift, frame.
    left, top, right, bottom = augmentation.preprocess.frame(width, height)
    u, v = np.meshgrid(*2 * [(2 * np.arange(side) + 1) / side - 1])
    u = -u if look.mirrored else u
    direction = (u + 1j * v) * np.exp(1j * math.radians(look.angle)) * look.zoom + 2 * complex(*look.shift)
    x = (left + right) / 2 + direction.real * (right - left) / 2 - 0.5
    y = (top + bottom) / 2 + direction.imag * (bottom - top) / 2 - 0.5
    # Nearer to an edge than a pixel of the draft is, both averaging and what lies beyond have a say.
    coarse_x, coarse_y = 1 + 2 * width / draft.shape[1], 1 + 2 * height / draft.shape[0]
    inside = (x >= coarse_x) & (x <= width - 1 - coarse_x) & (y >= coarse_y) & (y <= height - 1 - coarse_y)
    for seen, expected in ((view[..., 0], x / (width - 1) * 255), (view[..., 1], y / (height - 1) * 255), (view[..., 2], x * 0 + 99)):
        assert np.abs(seen[inside] - expected[inside]).max(initial=0) <= 4
    if geometry in FILL:
        outside = (x < -coarse_x) | (x > width - 1 + coarse_x) | (y < -coarse_y) | (y > height - 1 + coarse_y)
        assert (view[outside] == FILL[geometry]).all()


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("size", [(300, 200), (60, 100), (40, 24)])
def test_the_plain_look_is_the_validation_picture(geometry: Any, size: tuple[int, int]) -> None:
    image = ramps(*size)
    augmentation = Augmentation(Preprocess(64, geometry=geometry), PRESETS["default"])
    view = augmentation.view(augmentation.draft(image), *size, PLAIN)
    assert np.abs(view.astype(int) - augmentation.preprocess.pixels(image)).mean() < 2
    mirrored = augmentation.view(augmentation.draft(image), *size, replace(PLAIN, mirrored=True))
    assert np.abs(mirrored[:, ::-1].astype(int) - view).mean() < 2


def lit(colour: tuple[int, int, int], **fields: Any) -> list[int]:
    """What becomes of a picture of one colour."""
    augmentation = Augmentation(Preprocess(16), PRESETS["light"])
    draft = augmentation.draft(Image.new("RGB", (32, 32), colour))
    seen = augmentation.view(draft, 32, 32, replace(PLAIN, **fields))
    assert (seen == seen[0, 0]).all()
    return [int(value) for value in seen[0, 0]]


@pytest.mark.parametrize(
    ("colour", "fields", "expected"),
    [
        ((10, 100, 250), {}, [10, 100, 250]),
        ((10, 100, 250), {"brightness": 1.2}, [12, 120, 255]),
        ((10, 100, 250), {"contrast": 0.5}, [69, 114, 189]),        # 127.5 + (v - 127.5) / 2 = 68.75, 113.75, 188.75
        ((10, 100, 250), {"gains": (1.1, 1, 0.9)}, [11, 100, 225]),
        ((80, 80, 80), {"saturation": 0.3}, [80, 80, 80]),
        ((200, 100, 0), {"saturation": 0}, [118, 118, 118]),        # 0.299 * 200 + 0.587 * 100 = 118.5, rounded to even
        ((100, 200, 50), {"brightness": 1.1, "contrast": 1.2}, [104, 236, 38]),
    ],
)
def test_light_by_hand(colour: tuple[int, int, int], fields: dict[str, Any], expected: list[int]) -> None:
    assert lit(colour, **fields) == expected


def test_noise_keeps_within_its_amount_and_erasing_within_its_rectangle() -> None:
    augmentation = Augmentation(Preprocess(64), PRESETS["strong"])
    draft = augmentation.draft(Image.new("RGB", (80, 80), (128, 128, 128)))
    draft.setflags(write=False)  # as it comes out of the cache
    noisy = augmentation.view(draft, 80, 80, replace(PLAIN, noise=9)).astype(int) - 128
    assert noisy.min() >= -9 and noisy.max() <= 9 and noisy.std() > 3 and abs(noisy.mean()) < 1
    erased = augmentation.view(draft, 80, 80, replace(PLAIN, erased=(0.25, 0.5, 0.75, 0.75)))
    changed = (erased != 128).any(axis=2)
    assert not changed[:32].any() and not changed[48:].any() and not changed[:, :16].any() and not changed[:, 48:].any()
    assert changed[32:48, 16:48].mean() > 0.99
    other = augmentation.view(draft, 80, 80, replace(PLAIN, erased=(0.25, 0.5, 0.75, 0.75), grain=2))
    assert (other[32:48, 16:48] != erased[32:48, 16:48]).mean() > 0.9
    again = augmentation.view(draft, 80, 80, replace(PLAIN, noise=9, grain=2)).astype(int) - 128
    assert (again != noisy).mean() > 0.5 and (draft == 128).all()
