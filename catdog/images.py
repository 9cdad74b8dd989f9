"""decode, Preprocess: from bytes to an upright RGB image to pixels. The one way in, for training and for serving.

    bytes --decode--> image (RGB, upright) --Preprocess.pixels--> pixels (S, S, 3) uint8

numpy and Pillow only. Decoding happens in this process: hostile bytes belong into a process that may die (service/decoding.py).
"""

import io
import warnings
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from catdog.errors import BadImage, TooLarge, UnsupportedType

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MAX_PIXELS = 50_000_000
MIN_SIDE = 8
"""Pixels. A smaller picture shows nothing, and its shape is easily taken for another (1x1 ended a server: CVE-2026-22773)."""
MAX_SIDE = 16_384

# Pillow's own, laxer limit only warns; ours is checked right after opening. Filters are global: set once, not in each thread.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def decode(data: bytes) -> Image.Image:
    """Turn the bytes of a picture into an RGB image, upright.

    Animated pictures give their first frame. EXIF orientation is applied. Transparency is laid over white. 16-bit grey is
    scaled to 8 bits. CMYK is converted by Pillow's plain formula, without colour profiles.

    Raises:
        UnsupportedType: not one of FORMATS.
        TooLarge: more than MAX_PIXELS or MAX_SIDE; known from the header, before any pixel is made.
        BadImage: truncated, broken, or a side below MIN_SIDE.
    """
    try:
        # Opened twice: verify() finds wrong checksums that loading overlooks, and leaves the image unusable.
        _open(data).verify()
        image = _open(data)
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image))
    except (BadImage, TooLarge, UnsupportedType):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLarge(f"Expected a picture of at most {MAX_PIXELS} pixels. Received: more.", limit=MAX_PIXELS) from error
    except Exception as error:
        # Pillow raises a dozen kinds on broken bytes; its own fuzz test lists them.
        raise BadImage(f"Expected a whole, readable picture. Received: {type(error).__name__}: {error}.") from error


def _open(data: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise UnsupportedType(f"Expected a picture: {', '.join(FORMATS)}. Received: {len(data)} bytes of something else.") from error
    # Asked for JPEG only, Pillow still answers MPO: phones write it, and its first picture is an ordinary JPEG.
    if image.format not in (*FORMATS, "MPO"):
        raise UnsupportedType(f"Expected a picture: {', '.join(FORMATS)}. Received: {image.format}.")
    width, height = image.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise TooLarge(
            f"Expected at most {MAX_PIXELS} pixels and {MAX_SIDE} a side. Received: {width}x{height}.", limit=MAX_PIXELS,
        )
    if min(width, height) < MIN_SIDE:
        raise BadImage(f"Expected at least {MIN_SIDE} pixels a side. Received: {width}x{height}.")
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        # 16-bit grey: 65535 / 257 = 255. Pillow's own conversion would clip everything above 255 to white.
        grey = np.clip(np.asarray(image, dtype=np.float64) / 257, 0, 255).round().astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


@dataclass(frozen=True, slots=True)
class Preprocess:
    """From an image to what a network sees. It travels inside the model package; a prediction has no other source."""

    image_size: int
    """Side S of the square, in pixels."""
    resize: str = "bicubic"
    """How pixels are interpolated: bilinear or bicubic, with Pillow's antialiasing."""
    crop: float = 0.875
    """Share of the short side that the centred square keeps (224/256, the usual ImageNet evaluation)."""

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """Crop the centred square and resize it in one Pillow call. Returns pixels (S, S, 3) uint8."""
        width, height = image.size
        side = min(width, height) * self.crop
        left, top = (width - side) / 2, (height - side) / 2
        square = image.resize(
            (self.image_size, self.image_size), _RESAMPLING[self.resize], box=(left, top, left + side, top + side),
        )
        return np.asarray(square, dtype=np.uint8)

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the model package."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Read what to_dict wrote."""
        return cls(**fields)
