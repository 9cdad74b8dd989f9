"""Frame, trace, encoded, channels_first: what part of a picture a preparation shows, in which direction and how large; D06.

A preparation is anyone's function from the bytes of a picture to a tensor. It is asked with pictures whose values are coordinates:
black, white, a ramp from left to right and one from top to bottom. What it adds and multiplies cancels out.
"""

import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from catdog.doctor.data.census import census, entries, sampled, spread
from catdog.doctor.examination import CannotTell, Examination, examination
from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.patient import Data, Patient
from catdog.doctor.source import defined_at

Prepare = Callable[[bytes], Tensor]
Pixels = NDArray[np.uint8]
Values = NDArray[np.float64]

ALONG = 0.9
"""Correlation of a coordinate with the rows or columns of the output; values that are rounded to four steps still have 0.95."""
APART = 0.1
"""Share of the picture by which the channels of one place may come from different places; rounded to whole numbers they do by 0.05."""
LEAST_KEPT = 0.05
"""Share of the median picture's area; what sees less is certainly not what was meant."""
SMALL_KEPT, SMALL_TENTH = 0.35, 0.15
"""The same of the median picture and of the worst tenth: worth a look. ImageNet's centre crop of a 4:3 picture keeps 0.57."""
MOST_ENLARGED = 4.0
MOST_DISTORTED = 2.5
"""How many times wider or narrower than it was; a 16:9 picture pressed into a square has 1.8."""
SHAPES = 5
"""Shapes of pictures that are asked about."""
FILES = 500
"""Files whose size is looked at."""
LARGEST = 6_000_000
"""Pixels of a picture that is asked with; a larger shape is left out."""


@dataclass(frozen=True, slots=True)
class Frame:
    """How a preparation shows pictures of one size."""

    size: tuple[int, int]
    """Of the pictures: width and height."""
    across: Values
    """(H, W) of the output: how far from the left of the picture each value comes from, 0 to 1; NaN where it comes from none."""
    down: Values
    """The same from the top."""
    apart: float = 0.0
    """How far the channels of one place come from different places, 0 to 1."""

    @property
    def box(self) -> tuple[float, float, float, float]:
        """What is shown, as shares of the picture: left, top, right, bottom."""
        (left, right, _), (top, bottom, _) = _line(self.across), _line(self.down)
        return left, top, right, bottom

    @property
    def kept(self) -> float:
        """Share of the picture's area that is shown."""
        left, top, right, bottom = self.box
        return (right - left) * (bottom - top)

    @property
    def shown(self) -> NDArray[np.bool_]:
        """(H, W): where the output shows the picture and no bar."""
        return np.isfinite(self.across)

    @property
    def scales(self) -> tuple[float, float]:
        """Pixels of the output for one of the picture, across and down."""
        width, height = self.size
        return 1 / max(1e-9, _line(self.across)[2] * width), 1 / max(1e-9, _line(self.down)[2] * height)

    @property
    def orientation(self) -> str:
        """upright, mirrored, upside down, turned, transposed or scrambled."""
        if self.apart > APART:
            return "scrambled"
        along = {(name, axis): _correlation(one, axis) for name, one in (("x", self.across), ("y", self.down)) for axis in (0, 1)}
        if min(abs(along["x", 1]), abs(along["y", 0])) > ALONG:
            return {(True, True): "upright", (False, True): "mirrored", (True, False): "upside down"}.get(
                (along["x", 1] > 0, along["y", 0] > 0), "turned by 180 degrees",
            )
        if min(abs(along["x", 0]), abs(along["y", 1])) > ALONG:
            return "transposed" if along["x", 0] > 0 and along["y", 1] > 0 else "turned by 90 degrees"
        return "scrambled"


def _line(one: Values) -> tuple[float, float, float]:
    """Where a coordinate begins and ends in the output, and its step from one value to the next, by a straight line through it."""
    axis = max((0, 1), key=lambda axis: abs(_correlation(one, axis)))
    finite = np.isfinite(one)
    places = np.flatnonzero(finite.any(axis=1 - axis))
    if len(places) < 2:
        return 0.0, 1.0, 0.0
    means = np.nansum(one, axis=1 - axis)[places] / finite.sum(axis=1 - axis)[places]
    step, start = np.polyfit(places, means, 1)
    first, last = sorted((start + step * (places[0] - 0.5), start + step * (places[-1] + 0.5)))
    return max(0.0, float(first)), min(1.0, float(last)), abs(float(step))


def trace(prepare: Prepare, width: int, height: int) -> Frame | None:
    """Ask a preparation; None where what it makes of a picture cannot be followed (it looks at the picture as a whole).

    8 bits tell 255 places apart: of a picture of 4,000 pixels, 16 pixels.
    """
    across = np.broadcast_to(np.linspace(0, 255, width).round().astype(np.uint8)[None, :, None], (height, width, 3))
    down = np.broadcast_to(np.linspace(0, 255, height).round().astype(np.uint8)[:, None, None], (height, width, 3))
    black, white = np.zeros((height, width, 3), np.uint8), np.full((height, width, 3), 255, np.uint8)
    dark, light, x, y = (channels_first(prepare(encoded(picture))).double().numpy() for picture in (black, white, across, down))
    if not dark.shape == light.shape == x.shape == y.shape:
        return None
    span = light - dark
    most = float(np.abs(span).max())
    if not np.isfinite(most) or most == 0:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        live = np.abs(span).max(axis=(1, 2)) > 0.01 * most  # a channel that carries nothing tells nothing
        shown = (np.abs(span) > 0.5 * np.abs(span).max(axis=(1, 2), keepdims=True))[live].all(axis=0)  # what no colour changes is a bar
        coordinates = [np.where(shown, (one - dark)[live] / span[live], np.nan) for one in (x, y)]
    if not shown.any() or not all(np.nanmin(one) > -0.05 and np.nanmax(one) < 1.05 for one in coordinates):
        return None
    apart = max(float(np.mean(np.ptp(one[:, shown], axis=0))) for one in coordinates)
    x, y = (
        np.clip(one.mean(axis=0), 0, 1) * (side - 1) / side + 0.5 / side for one, side in zip(coordinates, (width, height), strict=True)
    )
    return Frame((width, height), x, y, apart)


def is_flat(values: Tensor) -> bool:
    """Whether every channel of a picture is of one value all over."""
    channels = channels_first(values).double().flatten(1)
    return float((channels.max(dim=1).values - channels.min(dim=1).values).max()) < 1e-3


def channels_first(values: Tensor) -> Tensor:
    """(C, H, W) of (H, W), (C, H, W) or (H, W, C)."""
    values = torch.as_tensor(values).detach().cpu()
    if values.ndim == 4 and len(values) == 1:
        values = values[0]
    if values.ndim == 2:
        values = values[None]
    if values.ndim != 3:
        raise CannotTell(f"prepare makes tensors of shape {tuple(values.shape)}")
    return values if values.shape[0] in (1, 3) or values.shape[2] not in (1, 3) else values.permute(2, 0, 1)


def encoded(picture: Pixels | Image.Image, **options: object) -> bytes:
    """A PNG of (H, W, 3) uint8: what comes out of it is what went in."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(np.ascontiguousarray(picture))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=0, **options)
    return buffer.getvalue()


def _correlation(one: Values, axis: int) -> float:
    """How far a value is told by its row (0) or its column (1)."""
    places = np.broadcast_to(np.arange(one.shape[axis])[:, None] if axis == 0 else np.arange(one.shape[axis])[None, :], one.shape)
    finite = np.isfinite(one)
    values, places = one[finite], places[finite]
    if values.size < 4 or values.std() < 1e-9 or places.std() < 1e-9:
        return 0.0
    return float(np.corrcoef(values, places)[0, 1])


@examination(
    "D06", "geometry", catches="a crop without a resize that shows a corner of the animal, distortion, enlargement", needs=("data",),
)
def geometry(patient: Patient) -> Iterator[Finding]:
    """Ask what validation and test make of pictures of the sizes that there are."""
    data = patient.data
    if data is None or data.prepare is None:
        raise CannotTell("no prepare")
    sizes = _sizes(patient)
    frames = [frame for size in _typical(sizes) if (frame := trace(data.prepare, *size)) is not None]
    if not frames:
        raise CannotTell("prepare judges a picture as a whole; what part of it is seen cannot be followed")
    by_size = {frame.size: frame for frame in frames}
    own = [by_size[min(by_size, key=lambda known: _unlike(size, known))] for size in sizes]
    kept = sorted(frame.kept for frame in own)
    median, tenth = kept[len(kept) // 2], kept[len(kept) // 10]
    place, shape = defined_at(data.prepare), own[len(own) // 2].size
    culprit = Culprit(getattr(data.prepare, "__name__", type(data.prepare).__name__), str(place) if place else None)
    evidence = (
        f"the median picture keeps {median:.1%} of its area, the worst tenth {tenth:.1%} or less",
        f"{len(sizes)} files looked at, {len(frames)} shapes asked, for example {shape[0]} x {shape[1]}",
    )
    middle = sorted(frames, key=lambda frame: frame.kept)[len(frames) // 2]
    if median < LEAST_KEPT and _outside_is_unseen(data.prepare, middle):
        yield Finding(
            "D06", "error", f"The network sees {median:.1%} of the median picture: it is cropped without being resized", culprit,
            (*evidence, "what lies outside was painted over, and not one value changed"), "Resize the short side before the crop.",
        )
    elif median < SMALL_KEPT or tenth < SMALL_TENTH:
        yield Finding(
            "D06", "warning", f"The network sees {median:.0%} of the median picture and {tenth:.0%} of the worst tenth", culprit, evidence,
            "Resize before the crop; where what matters is not in the middle, letterbox.",
        )
    yield from _of_scale(own, culprit)


def _of_scale(own: Sequence[Frame], culprit: Culprit) -> Iterator[Finding]:
    scales = [frame.scales for frame in own]
    enlarged = float(np.median([max(scale) for scale in scales]))
    distorted = float(np.median([max(scale) / min(scale) for scale in scales]))
    if enlarged > MOST_ENLARGED:
        yield Finding(
            "D06", "warning", f"The median picture is enlarged {enlarged:.1f} times", culprit, (f"of {len(own)} files",),
            "Take a smaller image size: nothing is gained by enlarging.",
        )
    if distorted > MOST_DISTORTED:
        yield Finding(
            "D06", "warning", f"The median picture is pressed {distorted:.1f} times narrower than it was", culprit,
            (f"of {len(own)} files",), "Resize the short side and crop, or letterbox.",
        )


def _sizes(patient: Patient) -> list[tuple[int, int]]:
    """Of the files of val, where there is one: deterministic geometry is theirs."""
    data: Data = patient.data  # type: ignore[assignment]
    found = entries(patient)
    found = [entry for entry in found if entry.split == "val"] or found
    records = data.records or {}
    known = [(record.width, record.height) for entry in found if (record := records.get(entry.path)) is not None]
    if not known:
        known = [one.size for one in census(sampled(found, FILES)) if not one.error]
    if not known:
        raise CannotTell("no file can be read")
    return known


def _typical(sizes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """SHAPES of them: the commonest, and some spread over the areas."""
    common = [size for size, _ in Counter(sizes).most_common(2)]
    ordered = sorted(set(sizes), key=lambda size: (size[0] * size[1], size))
    chosen = dict.fromkeys([*common, *(ordered[place] for place in spread(len(ordered), SHAPES - len(common)))])
    return [size for size in chosen if size[0] * size[1] <= LARGEST] or [min(ordered)]


def _unlike(one: tuple[int, int], other: tuple[int, int]) -> float:
    return sum(abs(float(np.log(mine / theirs))) for mine, theirs in zip(one, other, strict=True))


def _outside_is_unseen(prepare: Prepare, frame: Frame) -> bool:
    """Whether the output stays the same, bit by bit, when everything outside the frame is painted over."""
    width, height = frame.size
    generator = np.random.default_rng(0)
    picture = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    painted = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    left, top, right, bottom = frame.box
    margin_x, margin_y = 0.02 * width + 2, 0.02 * height + 2
    rows = slice(max(0, int(top * height - margin_y)), int(bottom * height + margin_y) + 1)
    columns = slice(max(0, int(left * width - margin_x)), int(right * width + margin_x) + 1)
    painted[rows, columns] = picture[rows, columns]
    return torch.equal(torch.as_tensor(prepare(encoded(picture))), torch.as_tensor(prepare(encoded(painted))))


EXAMINATIONS: tuple[Examination, ...] = (geometry,)
