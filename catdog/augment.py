"""PRESETS, Preset, Look, Augmentation: what training adds on top of images.Preprocess, on uint8.

    image --Augmentation.draft--> draft (H, W, 3), cached --Augmentation.view(look)--> view (S, S, 3)

A draft is all of a picture that any view of it may show, and hardly more pixels than a view needs. A look is how one view is
taken: every number of it comes from hash(seed, epoch, content of the picture), so that no order, thread or resume changes it.
The validation picture is the look in the middle: upright, straight, unscaled. No torch here.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from catdog.images import FILL, Preprocess

Augment = Literal["none", "light", "default", "strong"]
NAMES: tuple[Augment, ...] = get_args(Augment)

Pixels = NDArray[np.uint8]

# The threads that load share the picture work already; OpenCV's own would stand in their way and in that of the arithmetic.
cv2.setNumThreads(1)


@dataclass(frozen=True, slots=True)
class Preset:
    """How far a look may go. Each draw is uniform within its bound; a chance of 0.5 means in half of the views."""

    mirror: float
    """Chance of left and right being exchanged."""
    rotation: float
    """Degrees, either way."""
    zoom: tuple[float, float]
    """Side of what is seen, as a share of the side that validation sees: smallest and largest. Drawn on a logarithmic scale."""
    shift: float
    """Share of the side by which the middle moves, in each direction."""
    brightness: float
    """Share by which values become brighter or darker."""
    contrast: float
    """Share by which values move away from or towards the middle grey."""
    saturation: float
    """Share by which colours are stronger or weaker."""
    colour: float
    """Share by which each of red, green and blue is stronger or weaker: another lamp."""
    noise: int
    """Largest amount by which a value is changed at random, of 255."""
    noisy: float
    """Chance of noise."""
    erase: float
    """Chance that a rectangle is replaced with noise."""
    erased: tuple[float, float]
    """Share of the area that the rectangle takes: smallest and largest."""

    @property
    def detail(self) -> float:
        """Pixels of a draft for one of the validation picture: between what the nearest and the farthest view would want."""
        return 1 / math.sqrt(self.zoom[0] * self.zoom[1])

    @property
    def reach(self) -> float:
        """How far from the middle a view can look, in halves of the side that validation sees."""
        turn = math.radians(self.rotation)
        return self.zoom[1] * (math.cos(turn) + math.sin(turn)) + 2 * self.shift


PRESETS: dict[str, Preset] = {
    # A camera held by somebody else: mirrored, a step nearer or farther, a little off the middle, in slightly other light.
    "light": Preset(
        mirror=0.5, rotation=0, zoom=(0.9, 1.1), shift=0.05, brightness=0.1, contrast=0.1, saturation=0, colour=0,
        noise=0, noisy=0, erase=0, erased=(0, 0),
    ),
    # Rotation and lighting as fastai's aug_transforms (max_rotate 10, max_lighting 0.2). Erasing at timm's usual chance (reprob 0.25)
    # from Random Erasing's smallest area (Zhong et al. 2017: 0.02), but to half of its largest, so that an animal's head is seldom gone.
    # Never nearer than 0.75 of the side (56 % of the area): RandomResizedCrop's 8 % is made for a million pictures of one thing each.
    "default": Preset(
        mirror=0.5, rotation=10, zoom=(0.75, 1.15), shift=0.1, brightness=0.2, contrast=0.2, saturation=0.2, colour=0.05,
        noise=8, noisy=0.25, erase=0.25, erased=(0.02, 0.15),
    ),
    # For training from nothing or for many epochs: lighting as timm's color_jitter 0.4, erasing as Zhong et al. (0.5, up to a third as
    # torchvision's RandomErasing), twice the rotation, nearer.
    "strong": Preset(
        mirror=0.5, rotation=20, zoom=(0.5, 1.2), shift=0.15, brightness=0.4, contrast=0.4, saturation=0.4, colour=0.1,
        noise=16, noisy=0.5, erase=0.5, erased=(0.02, 0.33),
    ),
}

ASPECT = 3.3
"""An erased rectangle is at most so many times as wide as high, or as high as wide (Zhong et al. 2017)."""


@dataclass(frozen=True, slots=True)
class Look:
    """How one view is taken."""

    mirrored: bool
    angle: float
    """Degrees."""
    zoom: float
    """Side of what is seen, as a share of the side that validation sees."""
    shift: tuple[float, float]
    """Right and down, as shares of that side."""
    brightness: float
    """Factor of every value."""
    contrast: float
    """Factor of a value's distance from the middle grey."""
    saturation: float
    """Factor of a pixel's distance from its own grey."""
    gains: tuple[float, float, float]
    """Factors of red, green and blue."""
    noise: int
    """Largest change of a value, of 255; 0 for none."""
    erased: tuple[float, float, float, float] | None
    """Left, top, right, bottom of the rectangle as shares of the side."""
    grain: int
    """Seed of noise and of what stands in the rectangle."""

    @classmethod
    def draw(cls, preset: Preset, *, seed: int, epoch: int, content: str) -> "Look":
        """The look of an epoch at a picture, whose sha256 is `content`: the same whenever and wherever it is asked for."""
        digest = hashlib.shake_128(f"{seed}:{epoch}:{content}".encode()).digest(16 + 4 * 18)
        # As many numbers for every preset, each always for the same thing: a bound can be changed without moving the other draws.
        (mirror, angle, zoom, right, down, bright, contrast, red, green, blue, noisy, noise, erase, area, aspect, left, top, vivid) = (
            (np.frombuffer(digest, "<u4", offset=16) / 2**32).tolist()
        )
        nearest, farthest = preset.zoom
        return cls(
            mirrored=mirror < preset.mirror,
            angle=_around(angle, preset.rotation),
            zoom=nearest * (farthest / nearest) ** zoom,
            shift=(_around(right, preset.shift), _around(down, preset.shift)),
            brightness=1 + _around(bright, preset.brightness),
            contrast=1 + _around(contrast, preset.contrast),
            saturation=1 + _around(vivid, preset.saturation),
            gains=(1 + _around(red, preset.colour), 1 + _around(green, preset.colour), 1 + _around(blue, preset.colour)),
            noise=1 + int(noise * preset.noise) if noisy < preset.noisy else 0,
            erased=_rectangle(preset, area=area, aspect=aspect, left=left, top=top) if erase < preset.erase else None,
            grain=int.from_bytes(digest[:16]),
        )

    def light(self) -> NDArray[np.float64]:
        """What becomes of a pixel's red, green, blue and 1, (3, 4): contrast about the middle grey, saturation, brightness, gains."""
        grey = np.outer(np.ones(3), (0.299, 0.587, 0.114))  # luma of ITU-R BT.601, as Pillow's L
        mixed = (self.saturation * np.eye(3) + (1 - self.saturation) * grey) * self.contrast
        gains = self.brightness * np.array(self.gains)[:, np.newaxis]
        light: NDArray[np.float64] = gains * np.hstack([mixed, np.full((3, 1), 127.5 * (1 - self.contrast))])
        return light


def _around(draw: float, bound: float) -> float:
    """From a draw of [0, 1) to one of [-bound, bound)."""
    return (2 * draw - 1) * bound


def _rectangle(preset: Preset, *, area: float, aspect: float, left: float, top: float) -> tuple[float, float, float, float]:
    """Left, top, right, bottom, as shares of the side, from draws of [0, 1)."""
    smallest, largest = preset.erased
    share = smallest + area * (largest - smallest)
    ratio = min(ASPECT ** _around(aspect, 1), 1 / share)
    ratio = max(ratio, share)  # neither side longer than the picture's
    width, height = math.sqrt(share * ratio), math.sqrt(share / ratio)
    left, top = left * (1 - width), top * (1 - height)
    return left, top, left + width, top + height


@dataclass(frozen=True, slots=True)
class Augmentation:
    """A preset on top of a preprocessing."""

    preprocess: Preprocess
    preset: Preset

    def draft_size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the draft of a picture of that size."""
        _, (across, down) = self._draft(width, height)
        return across, down

    def draft(self, image: Image.Image) -> Pixels:
        """All of an upright RGB image that a view may show, never enlarged: (H, W, 3), by one Pillow call."""
        box, size = self._draft(*image.size)
        return np.asarray(image.resize(size, Image.Resampling[self.preprocess.resize.upper()], box=box))

    def view(self, draft: Pixels, width: int, height: int, look: Look) -> Pixels:
        """The picture of width x height, of which a draft is given, as the look shows it: (S, S, 3)."""
        side, fill = self.preprocess.image_size, FILL.get(self.preprocess.geometry)
        # Bars continue as bars; where there are none, a view that reaches over the edge sees the picture mirrored there.
        # OpenCV warps four channels in half the time of three, and adding and dropping the fourth costs next to nothing.
        view: Any = cv2.warpAffine(
            cv2.cvtColor(draft, cv2.COLOR_RGB2RGBA), self._matrix(width, height, look), (side, side),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT_101 if fill is None else cv2.BORDER_CONSTANT, borderValue=fill or (),
        )
        view = cv2.transform(cv2.cvtColor(view, cv2.COLOR_RGBA2RGB), look.light())
        if look.noise:
            view = cv2.addWeighted(view, 1, _grain(look.grain, view.shape), 2 * look.noise / 255, -look.noise)
        if look.erased is not None:
            left, top, right, bottom = (round(edge * side) for edge in look.erased)
            hole = view[top:bottom, left:right]
            hole[:] = _grain(look.grain + 1, hole.shape)
        return np.asarray(view, dtype=np.uint8)

    def _draft(self, width: int, height: int) -> tuple[tuple[float, float, float, float], tuple[int, int]]:
        """What of a picture goes into its draft, in its pixels, and the size of the draft."""
        left, top, right, bottom = self.preprocess.frame(width, height)
        more = self.preset.reach - 1
        beyond, above = more * (right - left) / 2, more * (bottom - top) / 2
        box = max(left - beyond, 0), max(top - above, 0), min(right + beyond, width), min(bottom + above, height)
        wanted = self.preprocess.image_size * self.preset.detail
        across = min(1.0, wanted / (right - left)) * (box[2] - box[0])
        down = min(1.0, wanted / (bottom - top)) * (box[3] - box[1])
        return box, (max(1, round(across)), max(1, round(down)))

    def _matrix(self, width: int, height: int, look: Look) -> NDArray[np.float64]:
        """From the middle of a pixel of the view to a place in the draft, (2, 3), both in pixels counted from the middle of the first."""
        side = self.preprocess.image_size
        left, top, right, bottom = self.preprocess.frame(width, height)
        box, size = self._draft(width, height)
        turn = math.radians(look.angle)
        # From the view, -1 to 1, to the frame, -1 to 1: mirror, turn and zoom, then shift.
        cosine, sine = look.zoom * math.cos(turn), look.zoom * math.sin(turn)
        flip = -1 if look.mirrored else 1
        seen = np.array([[flip * cosine, -sine, 2 * look.shift[0]], [flip * sine, cosine, 2 * look.shift[1]], [0, 0, 1]])
        from_pixels = np.array([[2 / side, 0, 1 / side - 1], [0, 2 / side, 1 / side - 1], [0, 0, 1]])
        in_picture = np.array([[(right - left) / 2, 0, (left + right) / 2], [0, (bottom - top) / 2, (top + bottom) / 2], [0, 0, 1]])
        across, down = size[0] / (box[2] - box[0]), size[1] / (box[3] - box[1])
        in_draft = np.array([[across, 0, -box[0] * across - 0.5], [0, down, -box[1] * down - 0.5]])
        matrix: NDArray[np.float64] = in_draft @ in_picture @ seen @ from_pixels
        return matrix


def _grain(seed: int, shape: tuple[int, ...]) -> Pixels:
    """Random values of 0 to 255."""
    size = math.prod(shape)
    return np.random.SFC64(seed).random_raw(-(-size // 8)).view(np.uint8)[:size].reshape(shape)
