"""draw_picture: cat and dog faces drawn by the project itself, for machines without photographs and without a network.

What tells the two apart is shape: pointed ears, slit pupils, whiskers and a small nose against hanging ears, round pupils, a snout
and a tongue. Coats, backgrounds, pose, size and light are drawn from the same distributions for both.
"""

import math
from collections.abc import Sequence
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from catdog.scenery import FURS, Colour, backdrop, mixed

LABELS = ("cat", "dog")

_WHITE: Colour = (250, 248, 244)
_DARK: Colour = (38, 32, 32)
_PINK: Colour = (232, 142, 146)
_COLLARS: tuple[Colour, ...] = ((196, 48, 52), (40, 96, 168), (46, 132, 92), (232, 176, 48), (126, 74, 150))
_FINER = 2  # drawn twice as large and reduced: smooth edges

Points = Sequence[tuple[float, float]]


class Pen:
    """Draws shapes given in face coordinates: the middle of the head is (0, 0), its radius about 1, x to the right, y down."""

    def __init__(self, image: Image.Image, rng: Random) -> None:
        size = image.width
        self._draw = ImageDraw.Draw(image)
        self._unit = size * rng.uniform(0.2, 0.31)
        self._middle = (size * rng.uniform(0.4, 0.6), size * rng.uniform(0.42, 0.56))
        self._roll = math.radians(rng.gauss(0, 11))
        self._yaw = rng.uniform(-0.22, 0.22)
        self._mirrored = rng.choice((-1, 1))

    def _placed(self, points: NDArray[np.float64], depth: float) -> list[tuple[float, float]]:
        """Face coordinates -> picture coordinates. What is nearer (`depth`) moves further when the head turns."""
        x, y = points[:, 0] * self._mirrored * (1 - abs(self._yaw) * 0.3) + self._yaw * depth, points[:, 1]
        cos, sin = math.cos(self._roll), math.sin(self._roll)
        across = self._middle[0] + self._unit * (x * cos - y * sin)
        down = self._middle[1] + self._unit * (x * sin + y * cos)
        return list(zip(across.tolist(), down.tolist(), strict=True))

    def shape(self, corners: Points, fill: Colour, *, depth: float = 0.0, smooth: bool = True, outline: Colour | None = None) -> None:
        """A filled shape through `corners`: rounded (`smooth`), or with its corners kept."""
        points = np.asarray(corners, np.float64)
        placed = self._placed(_rounded(points) if smooth else points, depth)
        self._draw.polygon(placed, fill=fill)
        if outline is not None:
            self._draw.line([*placed, *placed[:2]], fill=outline, width=self._width(0.025), joint="curve")

    def disc(
        self, x: float, y: float, radius: float, fill: Colour, *, tall: float = 1.0, depth: float = 0.0, outline: Colour | None = None,
    ) -> None:
        """An ellipse `tall` times as high as wide."""
        turns = np.linspace(0, 2 * math.pi, 28, endpoint=False)
        points = np.stack((x + radius * np.cos(turns), y + radius * tall * np.sin(turns)), axis=1)
        placed = self._placed(points, depth)
        self._draw.polygon(placed, fill=fill)
        if outline is not None:
            self._draw.line([*placed, *placed[:2]], fill=outline, width=self._width(0.025), joint="curve")

    def line(self, points: Points, fill: Colour, *, width: float = 0.03, depth: float = 0.0) -> None:
        """A line through `points`, `width` in face units."""
        self._draw.line(self._placed(np.asarray(points, np.float64), depth), fill=fill, width=self._width(width), joint="curve")

    def strokes(self, ends: Points, fill: Colour, *, width: float) -> None:
        """Many short lines: from the first point to the second, from the third to the fourth, …"""
        placed = self._placed(np.asarray(ends, np.float64), 0.0)
        for start, end in zip(placed[::2], placed[1::2], strict=True):
            self._draw.line((start, end), fill=fill, width=self._width(width))

    def _width(self, units: float) -> int:
        return max(1, round(self._unit * units))


def _rounded(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """A closed Catmull-Rom curve through (N, 2) corners: (6 N, 2)."""
    before, after, beyond = np.roll(corners, 1, 0), np.roll(corners, -1, 0), np.roll(corners, -2, 0)
    t = np.linspace(0, 1, 6, endpoint=False)[None, :, None]
    p0, p1, p2, p3 = (points[:, None, :] for points in (before, corners, after, beyond))
    curve = 0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3)
    return np.asarray(curve.reshape(-1, 2), np.float64)


def draw_picture(label: str, rng: Random, size: int) -> Image.Image:
    """One face on a background: (size, size), RGB. The same `rng` state draws the same picture.

    Raises:
        ValueError: `label` is not one of LABELS.
    """
    if label not in LABELS:
        raise ValueError(f"Expected a label of {', '.join(LABELS)}. Received: {label!r}.")
    # What is out of focus needs no fine pixels.
    blurred = rng.random() < 0.4
    image = backdrop(rng, size if blurred else size * _FINER)
    if blurred:
        image = image.filter(ImageFilter.BoxBlur(size * rng.uniform(0.004, 0.02))).resize((size * _FINER, size * _FINER))
    pen = Pen(image, rng)
    fur = mixed(rng.choice(FURS), rng.choice(FURS), rng.uniform(0, 0.3))
    _body(pen, rng, fur)
    (_cat if label == "cat" else _dog)(pen, rng, fur)
    return _photographed(image.reduce(_FINER), rng)


def _photographed(image: Image.Image, rng: Random) -> Image.Image:
    """Light, focus and grain as they come."""
    image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.72, 1.15))
    image = ImageEnhance.Color(image).enhance(rng.uniform(0.6, 1.2))
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(image.width / 256 * rng.uniform(0.3, 1.0)))
    grain = np.random.default_rng(rng.getrandbits(32)).integers(-6, 7, size=(image.height, image.width, 1), dtype=np.int16)
    return Image.fromarray(np.clip(np.asarray(image, np.int16) + grain, 0, 255).astype(np.uint8))


def _body(pen: Pen, rng: Random, fur: Colour) -> None:
    """Shoulders, a bib, and sometimes a collar with its tag."""
    shade = mixed(fur, _DARK, 0.22)
    pen.shape(((-0.6, 0.5), (0.6, 0.5), (1.0, 1.4), (1.25, 3.6), (-1.25, 3.6), (-1.0, 1.4)), shade, outline=mixed(fur, _DARK, 0.5))
    if rng.random() < 0.5:
        pen.shape(((-0.4, 0.9), (0.4, 0.9), (0.45, 1.7), (0, 2.4), (-0.45, 1.7)), mixed(fur, _WHITE, 0.6))
    if rng.random() < 0.5:
        collar = rng.choice(_COLLARS)
        band = ((-0.78, 0.95), (0, 1.28), (0.78, 0.95), (0.82, 1.16), (0, 1.5), (-0.82, 1.16))
        pen.shape(band, collar, outline=mixed(collar, _DARK, 0.4))
        pen.disc(0, 1.5, 0.12, (236, 198, 84), outline=(150, 112, 40))


def _ticks(pen: Pen, rng: Random, fur: Colour, *, wide: float, high: float) -> None:
    """Single hairs, so that the coat is no flat colour."""
    for toward in (_WHITE, _DARK):
        hairs = []
        for _ in range(35):
            turn, far = rng.uniform(0, 2 * math.pi), math.sqrt(rng.random()) * 0.9
            x, y = wide * far * math.cos(turn), high * far * math.sin(turn)
            hairs += [(x, y), (x * 1.08, y * 1.08 + 0.05)]
        pen.strokes(hairs, mixed(fur, toward, rng.uniform(0.1, 0.2)), width=0.02)


def _cat(pen: Pen, rng: Random, fur: Colour) -> None:
    edge, dark, light = mixed(fur, _DARK, 0.5), mixed(fur, _DARK, 0.35), mixed(fur, _WHITE, 0.55)
    coat = rng.choice(("plain", "tabby", "tabby", "mask", "patch", "bib"))
    ears = dark if coat == "mask" else fur
    tip, apart = rng.uniform(1.15, 1.5), rng.uniform(0.66, 0.95)
    for side in (-1, 1):
        ear = ((0.98, -0.1), (apart + 0.12, -tip * 0.72), (apart, -tip), (apart - 0.26, -tip * 0.84), (0.12, -0.7))
        inner = ((0.8, -0.45), (apart - 0.02, -tip * 0.86), (0.36, -0.72))
        pen.shape([(side * x, y) for x, y in ear], ears, depth=-0.2, smooth=False, outline=edge)
        pen.shape([(side * x, y) for x, y in inner], mixed(_PINK, fur, 0.3), depth=-0.2, smooth=False)
    fluff = rng.uniform(1.0, 1.18)
    head = [(0.0, -0.82), (0.5, -0.76), (0.9, -0.34), (0.98 * fluff, 0.22), (0.72, 0.62), (0.3, 0.84)]
    pen.shape([*head, (0.0, 0.88), *((-x, y) for x, y in reversed(head[1:]))], fur, outline=edge)
    _ticks(pen, rng, fur, wide=0.9, high=0.78)
    _cat_coat(pen, rng, fur, coat)
    _cat_eyes(pen, rng)
    for side in (-1, 1):
        pen.disc(side * 0.18, 0.45, 0.24, light, tall=0.78, depth=0.55)
    pen.shape(((-0.12, 0.22), (0.12, 0.22), (0.0, 0.36)), _PINK, depth=0.7, outline=mixed(_PINK, _DARK, 0.5))
    pen.line(((-0.28, 0.52), (-0.15, 0.56), (0, 0.46), (0, 0.36), (0, 0.46), (0.15, 0.56), (0.28, 0.52)), edge, width=0.035, depth=0.65)
    _whiskers(pen, rng, _WHITE if sum(fur) < 480 or coat == "mask" else mixed(fur, _DARK, 0.45))


def _whiskers(pen: Pen, rng: Random, colour: Colour) -> None:
    droop = rng.uniform(-0.1, 0.16)
    for side in (-1, 1):
        for y, end in ((0.38, 0.22), (0.45, 0.46), (0.52, 0.7)):
            pen.line(((side * 0.3, y), (side * 0.8, (y + end) / 2 + 0.02), (side * 1.4, end + droop)), colour, width=0.022, depth=0.5)


def _cat_coat(pen: Pen, rng: Random, fur: Colour, coat: str) -> None:
    dark = mixed(fur, _DARK, 0.35)
    if coat == "tabby":
        for x, length in ((0.0, 0.42), (-0.2, 0.34), (0.2, 0.34)):
            pen.line(((x, -0.8), (x * 0.8, -0.8 + length)), dark, width=0.07, depth=0.2)
        for side in (-1, 1):
            for y in (0.12, 0.3):
                pen.line(((side * 0.95, y - 0.05), (side * 0.62, y)), dark, width=0.06)
    elif coat == "mask":
        pen.disc(0, 0.2, 0.6, mixed(fur, _DARK, 0.28), tall=0.95, depth=0.3)
    elif coat == "patch":
        pen.shape(((0.1, -0.8), (0.55, -0.72), (0.9, -0.3), (0.8, 0.1), (0.3, 0.1)), mixed(rng.choice(FURS), _DARK, 0.1))
    elif coat == "bib":
        pen.shape(((0, -0.5), (0.16, 0.0), (0.5, 0.5), (0.3, 0.8), (0, 0.86), (-0.3, 0.8), (-0.5, 0.5), (-0.16, 0.0)), _WHITE, depth=0.3)


def _cat_eyes(pen: Pen, rng: Random) -> None:
    """Almonds with a slit."""
    iris = rng.choice(((126, 176, 70), (226, 178, 54), (92, 160, 200), (182, 196, 88), (204, 130, 44)))
    slit, look, open_ = rng.uniform(0.035, 0.085), rng.uniform(-0.05, 0.05), rng.uniform(0.75, 1.1)
    for side in (-1, 1):
        x, y = side * 0.42, -0.12
        almond = ((x - 0.26, y + side * 0.05), (x - 0.1, y - 0.18 * open_), (x + 0.1, y - 0.18 * open_), (x + 0.26, y - side * 0.05),
                  (x + 0.1, y + 0.15 * open_), (x - 0.1, y + 0.15 * open_))
        pen.shape(almond, iris, depth=0.4, outline=_DARK)
        pen.disc(x + look, y - 0.01, slit, (16, 14, 16), tall=0.15 * open_ / slit, depth=0.4)
        pen.disc(x + look + 0.06, y - 0.07, 0.035, _WHITE, depth=0.4)


def _dog(pen: Pen, rng: Random, fur: Colour) -> None:
    edge, light = mixed(fur, _DARK, 0.5), mixed(fur, _WHITE, 0.55)
    coat = rng.choice(("plain", "blaze", "patch", "brows", "mask"))
    narrow = rng.uniform(0.92, 1.08)
    head = [(0.0, -0.92), (0.48, -0.86), (0.8 * narrow, -0.42), (0.8 * narrow, 0.08), (0.64, 0.56), (0.4, 0.94)]
    pen.shape([*head, (0.0, 1.05), *((-x, y) for x, y in reversed(head[1:]))], fur, outline=edge)
    _ticks(pen, rng, fur, wide=0.74, high=0.9)
    if coat == "blaze":
        pen.shape(((0, -0.92), (0.14, -0.6), (0.12, 0.0), (0.3, 0.4), (-0.3, 0.4), (-0.12, 0.0), (-0.14, -0.6)), _WHITE, depth=0.2)
    elif coat == "patch":
        pen.disc(0.38, -0.14, 0.32, mixed(rng.choice(FURS), _DARK, 0.3), tall=1.15, depth=0.3)
    elif coat == "mask":
        pen.disc(0, 0.1, 0.62, mixed(fur, _DARK, 0.25), tall=1.0, depth=0.25)
    _dog_ears(pen, rng, fur)
    snout = rng.choice((light, light, mixed(fur, _DARK, 0.3), mixed(fur, _WHITE, 0.25)))
    if rng.random() < 0.65:
        _tongue(pen, rng)
    for side in (-1, 1):
        pen.disc(side * 0.2, 0.6, 0.3, snout, tall=0.86, depth=0.6)
    pen.disc(0, 0.38, 0.32, snout, tall=0.9, depth=0.65)
    for side in (-1, 1):
        for x, y in ((0.2, 0.6), (0.3, 0.54), (0.28, 0.68)):
            pen.disc(side * x, y, 0.018, edge, depth=0.65)
    pen.line(((-0.44, 0.64), (-0.3, 0.8), (-0.1, 0.78), (0, 0.66), (0, 0.4), (0, 0.66), (0.1, 0.78), (0.3, 0.8), (0.44, 0.64)),
             mixed(edge, _DARK, 0.5), width=0.04, depth=0.7)
    nose = rng.choice((_DARK, _DARK, (84, 56, 50)))
    pen.shape(((-0.24, 0.22), (0, 0.15), (0.24, 0.22), (0.19, 0.38), (0, 0.47), (-0.19, 0.38)), nose, depth=0.85)
    pen.disc(-0.08, 0.24, 0.06, mixed(nose, _WHITE, 0.6), tall=0.5, depth=0.85)
    _dog_eyes(pen, rng, brows=coat == "brows", fur=fur)


def _dog_ears(pen: Pen, rng: Random, fur: Colour) -> None:
    """Hanging, of any length, sometimes of another colour, each swinging a little by itself."""
    colour = mixed(rng.choice((fur, fur, mixed(fur, _DARK, 0.4), rng.choice(FURS))), _DARK, 0.12)
    long, wide = rng.uniform(0.75, 1.5), rng.uniform(0.85, 1.15)
    for side in (-1, 1):
        swing = rng.uniform(-0.08, 0.14)
        ear = (
            (0.4, -0.84), (0.82, -0.8), (1.12 * wide + swing / 2, -0.3), (1.18 * wide + swing, 0.25 * long),
            (1.0 * wide + swing, 0.62 * long), (0.8 + swing, 0.56 * long), (0.72, 0.0), (0.62, -0.45),
        )
        pen.shape([(side * x, y) for x, y in ear], colour, depth=-0.1, outline=mixed(colour, _DARK, 0.5))


def _tongue(pen: Pen, rng: Random) -> None:
    end, lean = rng.uniform(1.1, 1.5), rng.uniform(-0.12, 0.12)
    pen.shape(((-0.26, 0.66), (0.26, 0.66), (0.3, 0.95), (-0.3, 0.95)), (96, 40, 46), depth=0.6)
    pen.shape(((-0.17, 0.74), (0.17, 0.74), (0.19 + lean, end - 0.1), (lean, end), (-0.19 + lean, end - 0.1)), (226, 110, 122), depth=0.65,
              outline=(170, 68, 84))
    pen.line(((0, 0.8), (lean, end - 0.14)), (190, 84, 98), width=0.03, depth=0.65)


def _dog_eyes(pen: Pen, rng: Random, *, brows: bool, fur: Colour) -> None:
    """Round, with a round pupil; brows of another colour on some."""
    iris = rng.choice(((98, 60, 34), (74, 46, 30), (140, 92, 44), (112, 150, 186)))
    look, radius = rng.uniform(-0.03, 0.03), rng.uniform(0.12, 0.16)
    for side in (-1, 1):
        x, y = side * 0.35, -0.14
        pen.disc(x, y, radius * 1.12, _WHITE, depth=0.4, outline=_DARK)
        pen.disc(x + look, y, radius * 0.92, iris, depth=0.4)
        pen.disc(x + look, y, radius * 0.55, (18, 14, 14), depth=0.4)
        pen.disc(x + look + 0.05, y - 0.05, 0.035, _WHITE, depth=0.4)
        if brows:
            pen.disc(x * 0.95, y - 0.3, 0.11, mixed(fur, (232, 180, 110), 0.7), tall=0.6, depth=0.4)
        else:
            pen.line(((x - 0.14, y - 0.26 - side * 0.02), (x, y - 0.31), (x + 0.14, y - 0.26 + side * 0.02)), mixed(fur, _DARK, 0.45),
                     width=0.05, depth=0.4)
