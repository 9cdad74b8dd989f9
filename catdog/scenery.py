"""backdrop, Colour, FURS, mixed: the colours of drawn pictures and what is behind the faces. Cats and dogs share all of it."""

import math
from random import Random

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]

FURS: tuple[Colour, ...] = (
    (226, 140, 60), (196, 118, 62), (146, 96, 60), (96, 66, 48), (60, 54, 54), (128, 128, 134), (176, 172, 170),
    (238, 228, 212), (222, 190, 144), (206, 160, 104), (84, 88, 102), (244, 240, 236), (170, 92, 48), (112, 84, 70),
)
"""Coats: ginger, brown, black, grey, cream, white. The same for cats and dogs, so that colour does not tell them apart."""

_PAINTS: tuple[Colour, ...] = (
    (146, 198, 232), (244, 204, 122), (164, 208, 152), (238, 168, 160), (186, 170, 218), (120, 160, 176), (226, 220, 206),
    (92, 112, 132), (206, 124, 92), (70, 96, 84), (248, 226, 226), (60, 62, 84), (152, 130, 110), (214, 232, 238),
)


def mixed(one: Colour, other: Colour, part: float) -> Colour:
    """`one` with `part` (0 to 1) of `other` in it."""
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(one, other, strict=True))
    return red, green, blue


def backdrop(rng: Random, size: int) -> Image.Image:
    """A square of wall, wallpaper, meadow, room or blurred lights: (size, size), RGB."""
    first, second = rng.sample(_PAINTS, 2)
    image = _gradient(first, mixed(first, second, rng.uniform(0.3, 1.0)), rng.uniform(0, 2 * math.pi), size)
    paint = mixed(second, (255, 255, 255), rng.uniform(0, 0.4))
    rng.choice((_wall, _dots, _stripes, _tiles, _meadow, _room, _lights))(ImageDraw.Draw(image), rng, size, paint)
    return image


def _gradient(start: Colour, end: Colour, angle: float, size: int) -> Image.Image:
    ramp = np.linspace(-0.5, 0.5, 32, dtype=np.float32)
    along = ramp[None, :, None] * math.cos(angle) + ramp[:, None, None] * math.sin(angle)
    part = np.clip(along / 1.42 + 0.5, 0, 1)
    pixels = np.asarray(start, np.float32) * (1 - part) + np.asarray(end, np.float32) * part
    return Image.fromarray(pixels.astype(np.uint8)).resize((size, size), Image.Resampling.BILINEAR)


def _wall(draw: ImageDraw.ImageDraw, rng: Random, size: int, paint: Colour) -> None:
    """Nothing on it: the gradient alone, with a skirting board now and then."""
    if rng.random() < 0.5:
        top = round(size * rng.uniform(0.72, 0.9))
        draw.rectangle((0, top, size, size), fill=paint)
        draw.line((0, top, size, top), fill=mixed(paint, (255, 255, 255), 0.5), width=max(2, size // 90))


def _dots(draw: ImageDraw.ImageDraw, rng: Random, size: int, paint: Colour) -> None:
    step, shift = size / rng.randint(5, 11), rng.random()
    radius = step * rng.uniform(0.12, 0.32)
    for row in range(-1, 13):
        for column in range(-1, 13):
            x, y = (column + shift + (row % 2) / 2) * step, (row + shift) * step
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=paint)


def _stripes(draw: ImageDraw.ImageDraw, rng: Random, size: int, paint: Colour) -> None:
    step, lean = size / rng.randint(5, 12), rng.choice((0.0, 0.0, 0.5, -0.5)) * size
    width = step * rng.uniform(0.2, 0.6)
    for number in range(-12, 25):
        x = number * step
        draw.polygon(((x, 0), (x + width, 0), (x + width + lean, size), (x + lean, size)), fill=paint)


def _tiles(draw: ImageDraw.ImageDraw, rng: Random, size: int, paint: Colour) -> None:
    step = size / rng.randint(4, 9)
    for row in range(10):
        for column in range(row % 2, 10, 2):
            draw.rectangle((column * step, row * step, (column + 1) * step, (row + 1) * step), fill=paint)


def _meadow(draw: ImageDraw.ImageDraw, rng: Random, size: int, paint: Colour) -> None:
    """Two hills, grass and flowers, a sun."""
    sun, place = size * rng.uniform(0.06, 0.12), (rng.uniform(0.1, 0.9) * size, rng.uniform(0.08, 0.3) * size)
    draw.ellipse((place[0] - sun, place[1] - sun, place[0] + sun, place[1] + sun), fill=(252, 226, 132))
    green: Colour = (rng.randint(80, 150), rng.randint(140, 190), rng.randint(70, 110))
    for depth in (0.55, 0.7):
        middle, top = rng.uniform(0, 1) * size, size * (depth + rng.uniform(-0.05, 0.05))
        draw.ellipse((middle - 1.3 * size, top, middle + 1.3 * size, top + 2 * size), fill=mixed(green, (30, 60, 30), depth - 0.5))
    for _ in range(90):
        x, y, blade = rng.uniform(0, size), rng.uniform(0.78, 1.02) * size, size * rng.uniform(0.015, 0.04)
        draw.line((x, y, x + blade * rng.uniform(-0.5, 0.5), y - blade), fill=mixed(green, (250, 255, 200), rng.random() / 2), width=2)
    for _ in range(rng.randint(0, 14)):
        x, y, petal = rng.uniform(0, size), rng.uniform(0.75, 1.0) * size, size * 0.012
        draw.ellipse((x - petal, y - petal, x + petal, y + petal), fill=paint)


def _room(draw: ImageDraw.ImageDraw, rng: Random, size: int, paint: Colour) -> None:
    """A window with sky, and a floor."""
    floor = size * rng.uniform(0.7, 0.88)
    draw.rectangle((0, floor, size, size), fill=mixed(paint, (110, 72, 44), 0.6))
    left, top = rng.uniform(-0.05, 0.65) * size, rng.uniform(0.03, 0.2) * size
    width, height, frame = rng.uniform(0.3, 0.45) * size, rng.uniform(0.3, 0.42) * size, max(2, size // 50)
    sky = rng.choice(((176, 216, 240), (250, 214, 170), (52, 62, 98)))
    draw.rectangle((left, top, left + width, top + height), fill=sky, outline=(246, 242, 234), width=frame)
    draw.line((left + width / 2, top, left + width / 2, top + height), fill=(246, 242, 234), width=frame)
    draw.line((left, top + height / 2, left + width, top + height / 2), fill=(246, 242, 234), width=frame)


def _lights(draw: ImageDraw.ImageDraw, rng: Random, size: int, paint: Colour) -> None:
    """Round lights out of focus."""
    for _ in range(rng.randint(8, 22)):
        x, y, radius = rng.uniform(0, size), rng.uniform(0, size), size * rng.uniform(0.02, 0.12)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=mixed(paint, rng.choice(_PAINTS), rng.random()))
