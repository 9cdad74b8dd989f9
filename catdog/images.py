"""read, decode, Picture, Preprocess: from bytes to an upright RGB image to pixels. The one way in, for training and for serving.

    bytes --read--> Picture: image (RGB, upright) --Preprocess.pixels--> pixels (S, S, 3) uint8
    bytes --Preprocess.pixels_of--> the same, of a large JPEG in a fraction of the time

numpy and Pillow only. Decoding happens in this process: hostile bytes belong into a process that may die (service/decoding.py).
"""

import io
import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from catdog.errors import BadImage, TooLarge, UnsupportedType

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MAX_PIXELS = 50_000_000
MIN_SIDE = 8
"""Pixels. A smaller picture shows nothing, and its shape is easily taken for another (1x1 ended a server: CVE-2026-22773)."""
MAX_SIDE = 16_384
MAX_IMAGE_SIZE = 1024
"""Pixels. The largest square that a network is made for."""

# Pillow's own, laxer limit only warns; ours is checked right after opening. Filters are global: set once, not in each thread.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


Geometry = Literal["resize_crop", "center_crop", "letterbox", "stretch"]
"""How a picture of any shape becomes a square.

    resize_crop   the centred square, `crop` of the short side, resized: the usual one
    center_crop   the middle S x S pixels as they are, black where the picture is smaller: the workshop's, and wrong where sizes differ
    letterbox     the whole picture, with grey bars: nothing is lost, everything is smaller
    stretch       the whole picture, distorted
"""
GEOMETRIES: tuple[Geometry, ...] = get_args(Geometry)
FILL = {"center_crop": (0, 0, 0), "letterbox": (114, 114, 114)}
"""The colour of the bars: black as torchvision's CenterCrop pads, grey as YOLO's letterbox does."""

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture, and how it was stored."""

    image: Image.Image
    """RGB, upright."""
    format: str
    """One of FORMATS."""
    mode: str
    """Pillow's name of how its pixels were stored: L, P, RGBA, CMYK, I;16, ..."""
    orientation: int
    """EXIF's: 1 is upright, 2 to 8 are mirrored or turned (EXIF 2.32, 4.6.4)."""


def decode(data: bytes) -> Image.Image:
    """The image of `read`."""
    return read(data).image


def read(data: bytes, spare: Callable[[int, int], float] | None = None) -> Picture:
    """Turn the bytes of a picture into an RGB image, upright.

    `spare` says how many times smaller a picture of a width and height may be made while it is decoded, if its format can (JPEG: by 2, 4
    or 8); without it the image has all its pixels.

    One rule for every mode: animated pictures give their first frame; EXIF orientation is applied; transparency (LA, RGBA, PA, or a
    transparent colour) is laid over white; 16-bit grey is scaled to 8 bits by 1/257; grey, palette and one-bit pictures become the RGB
    they show; CMYK is converted by Pillow's plain formula, without colour profiles.

    Raises:
        UnsupportedType: not one of FORMATS.
        TooLarge: more than MAX_PIXELS or MAX_SIDE; known from the header, before any pixel is made.
        BadImage: truncated, broken, or a side below MIN_SIDE.
    """
    try:
        image = _open(data)
        if image.format == "PNG":  # verify() finds wrong checksums that loading overlooks, and leaves the image unusable
            image.verify()
            image = _open(data)
        if spare is not None and (times := spare(*image.size)) > 1:
            image.draft(None, (math.ceil(image.width / times), math.ceil(image.height / times)))
        image.load()
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        turned = orientation in range(2, 9)
        return Picture(
            _to_rgb(ImageOps.exif_transpose(image) if turned else image),  # of an upright one it makes a copy
            format="JPEG" if image.format == "MPO" else str(image.format), mode=image.mode, orientation=orientation if turned else 1,
        )
    except (BadImage, TooLarge, UnsupportedType, MemoryError):  # want of memory says nothing about the picture
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
        values = np.asarray(image, dtype=np.float64)
        grey = np.clip(values / 257, 0, 255).round().astype(np.uint8)
        grey[values == image.info.get("transparency", -1)] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


@dataclass(frozen=True, slots=True)
class Preprocess:
    """From an image to what a network sees. It travels inside the model package; a prediction has no other source."""

    image_size: int
    """Side S of the square, in pixels."""
    resize: str = "bicubic"
    """How pixels are interpolated: bilinear or bicubic, with Pillow's antialiasing."""
    crop: float = 0.875
    """Of resize_crop: share of the short side that the centred square keeps (224/256, the usual ImageNet evaluation)."""
    geometry: Geometry = "resize_crop"

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """Cut out what `geometry` keeps and resize it in one Pillow call. Returns pixels (S, S, 3) uint8."""
        box = self._box(*image.size)
        width, height = self._target(*image.size)
        resized = image.resize((width, height), _RESAMPLING[self.resize], box=box)
        if resized.size != (self.image_size, self.image_size):
            square = Image.new("RGB", (self.image_size, self.image_size), FILL[self.geometry])
            square.paste(resized, ((self.image_size - width) // 2, (self.image_size - height) // 2))
            resized = square
        return np.asarray(resized, dtype=np.uint8)

    def pixels_of(self, data: bytes) -> NDArray[np.uint8]:
        """Bytes of a picture -> pixels (S, S, 3) uint8: what validation measures and serving sees. A large JPEG is decoded at a half, a
        quarter or an eighth, but never smaller than what is wanted of it. Of 200 photographs enlarged to 3024 pixels the pixels then
        differ by 1.1 of 255 in the mean from those of the whole pictures, the probabilities by 0.001, and no label.

        Raises:
            UnsupportedType, TooLarge, BadImage: as `read`.
        """
        return self.pixels(read(data, self._spare).image)

    def frame(self, width: int, height: int) -> tuple[float, float, float, float]:
        """What becomes the square, in pixels of the picture: left, top, right, bottom. It lies partly outside where bars are."""
        if self.geometry == "resize_crop":
            across = down = min(width, height) * self.crop
        elif self.geometry == "center_crop":  # from a whole pixel on: nothing is interpolated
            side = self.image_size
            left, top = int((width - side) / 2), int((height - side) / 2)
            return left, top, left + side, top + side
        elif self.geometry == "letterbox":
            across = down = max(width, height)
        else:
            across, down = width, height
        return (width - across) / 2, (height - down) / 2, (width + across) / 2, (height + down) / 2

    def survives(self, width: int, height: int) -> float:
        """Share of the area of a picture of that size that the network sees."""
        left, top, right, bottom = self._box(width, height)
        return (right - left) * (bottom - top) / (width * height)

    def _spare(self, width: int, height: int) -> float:
        """How many times more pixels a picture has than are wanted of it; of the turned one too, as the square has no orientation."""
        left, top, right, bottom = self._box(width, height)
        across, down = self._target(width, height)
        return min((right - left) / across, (bottom - top) / down)

    def _box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """What is kept of a picture, in its pixels: left, top, right, bottom."""
        left, top, right, bottom = self.frame(width, height)
        return max(left, 0), max(top, 0), min(right, width), min(bottom, height)

    def _target(self, width: int, height: int) -> tuple[int, int]:
        """The size to which what is kept is resized; where it is not the square, bars fill the rest."""
        side = self.image_size
        if self.geometry == "center_crop":
            return min(width, side), min(height, side)
        if self.geometry == "letterbox":
            scale = side / max(width, height)
            return max(1, round(width * scale)), max(1, round(height * scale))
        return side, side

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the model package."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Read what to_dict wrote."""
        return cls(**fields)
