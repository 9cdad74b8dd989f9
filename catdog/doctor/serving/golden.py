"""Golden, golden, scene: pictures that are stored in every way that a user's upload may be, made by code.

Each is plain (a JPEG or PNG as any camera or program writes it) or odd (turned by EXIF, transparent, 16 bit, ...), with the ways in which
odd ones are commonly misread.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from PIL import ExifTags, Image

Reading = Callable[[Image.Image], Image.Image]
"""From a picture as Pillow opens it to RGB."""


@dataclass(frozen=True, slots=True)
class Golden:
    """An encoded picture."""

    name: str
    data: bytes
    is_plain: bool = False
    is_common: bool = True
    """Whether users send such whatever the data set holds."""
    readings: Mapping[str, Reading] = field(default_factory=dict)
    """By what would have to be said of it: ways to read it."""


def scene(width: int, height: int) -> Image.Image:
    """Smooth and sharp, coarse and fine, coloured: what resizing, cropping, turning and exchanging changes."""
    generator = np.random.default_rng(width * height)
    down, across = np.mgrid[0:height, 0:width]
    values = np.stack([255 * across / width, 255 * down / height, 128 + 100 * np.sin(across / width * 9)], axis=2)
    for _ in range(14):
        x, y, radius = generator.uniform(0, width), generator.uniform(0, height), generator.uniform(0.03, 0.15) * min(width, height)
        values[np.hypot(across - x, down - y) < radius] = generator.uniform(0, 255, 3)
    stripes = (across + 2 * down) % 7 < 3
    values[: height // 4][stripes[: height // 4]] *= 0.3
    values += generator.normal(0, 20, (height, width, 1))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


@lru_cache(maxsize=1)
def golden() -> tuple[Golden, ...]:
    """All of them."""
    return (
        Golden("a JPEG", _bytes(scene(320, 240), "JPEG", quality=95), is_plain=True),
        Golden("a PNG higher than wide", _bytes(scene(210, 300), "PNG"), is_plain=True),
        Golden("a square PNG", _bytes(scene(256, 256), "PNG"), is_plain=True),
        Golden("a large JPEG", _bytes(scene(1600, 1200), "JPEG", quality=90), is_plain=True),
        Golden("a small PNG", _bytes(scene(40, 36), "PNG"), is_plain=True),
        *(_turned(orientation) for orientation in (2, 3, 6, 8)),
        *_transparent(),
        Golden("a grey PNG", _bytes(scene(200, 160).convert("L"), "PNG")),
        Golden("a PNG with a palette", _bytes(scene(200, 160).quantize(64), "PNG"), readings={"the palette is not looked up": _indices}),
        Golden("a grey PNG of 16 bits", _bytes(_deep(), "PNG"), is_common=False, readings={
            "16 bits are cut to the lowest 8 or to white": _clipped, "16 bits are divided by 257": _scaled,
            "the low byte of 16 bits is kept": lambda image: Image.fromarray((np.asarray(image) & 255).astype(np.uint8)).convert("RGB"),
        }),
        Golden("a CMYK JPEG", _bytes(scene(200, 160).convert("CMYK"), "JPEG", quality=95), is_common=False, readings={
            "CMYK is taken for its opposite": lambda image: Image.fromarray(255 - np.asarray(image.convert("RGB"))),
        }),
        Golden("a moving GIF", _moving(), is_common=False, readings={"the last picture of a GIF is taken": _last}),
    )


def _bytes(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _turned(orientation: int) -> Golden:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = _bytes(scene(240, 160), "JPEG", quality=95, exif=exif.tobytes())
    readings = {"the EXIF orientation is not applied": lambda image: image.convert("RGB")}
    return Golden(f"a JPEG with EXIF orientation {orientation}", data, readings=readings)


def _transparent() -> tuple[Golden, ...]:
    picture = scene(200, 160).convert("RGBA")
    alpha = np.zeros((160, 200), np.uint8)
    alpha[:, 60:] = 255
    alpha[60:100, 60:] = 128
    picture.putalpha(Image.fromarray(alpha))
    readings = {
        "transparency is laid over black": lambda image: _over(image, (0, 0, 0)),
        "transparency is laid over white": lambda image: _over(image, (255, 255, 255)),
        "transparency is laid over grey": lambda image: _over(image, (128, 128, 128)),
        "transparency is dropped": lambda image: image.convert("RGBA").convert("RGB"),
    }
    return (
        Golden("a transparent PNG", _bytes(picture, "PNG"), readings=readings),
        Golden("a transparent grey PNG", _bytes(picture.convert("LA"), "PNG"), readings=readings),
    )


def _over(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, (*colour, 255)), rgba).convert("RGB")


def _indices(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image)).convert("RGB")


def _deep() -> Image.Image:
    return Image.fromarray(np.asarray(scene(200, 160).convert("L")).astype(np.uint16) * 257)


def _clipped(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image).clip(0, 255).astype(np.uint8)).convert("RGB")


def _scaled(image: Image.Image) -> Image.Image:
    return Image.fromarray((np.asarray(image, np.float64) / 257).round().astype(np.uint8)).convert("RGB")


def _moving() -> bytes:
    first, second = scene(120, 100), scene(120, 100).transpose(Image.Transpose.ROTATE_180)
    return _bytes(first, "GIF", save_all=True, append_images=[second], duration=100)


def _last(image: Image.Image) -> Image.Image:
    image.seek(getattr(image, "n_frames", 1) - 1)
    return image.convert("RGB")
