"""Deviation, of_values, of_channels, of_layout, explain: by which single known mistake one preparation of a picture becomes another.

x is a picture in 0..1, (C, ...) float64, colours first; a deviation makes of x what a preparation that is wrong in one way makes of it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor

Normalise = tuple[Sequence[float], Sequence[float]] | None

ENOUGH = 0.1
"""Of the difference that is to be explained: what may be left of it."""
SMALL = 2 / 255
"""Of the range from black to white: two decoders may differ by it, and two roundings."""

KNOWN = {
    "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "0.5 and 0.5": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "CLIP's": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "CIFAR-10's": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "MNIST's": ((0.1307, 0.1307, 0.1307), (0.3081, 0.3081, 0.3081)),
}
"""Means and deviations that are in use: torchvision's weights, TensorFlow's -1..1, OpenAI's CLIP, the usual CIFAR and MNIST scripts."""


@dataclass(frozen=True, slots=True)
class Deviation:
    """One way to be wrong."""

    name: str
    """What is wrong, as a clause: "red and blue are exchanged"."""
    make: Callable[[Tensor], Tensor]
    """x -> what comes out."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """The mistake that fits."""

    name: str
    left: float
    """Share of the difference that it does not explain."""


def normalised(x: Tensor, normalise: Normalise) -> Tensor:
    """(x - mean) / deviation by channel; x itself for None."""
    if normalise is None:
        return x
    mean, deviation = (_column(x, values) for values in normalise)
    return (x - mean) / deviation


def undone(values: Tensor, normalise: Normalise) -> Tensor:
    """Back to 0..1: (C, ...) float64 of what a preparation made; whole numbers and what exceeds 1 without a normalisation are of 255."""
    if normalise is None:
        is_of_255 = not values.is_floating_point() or float(values.max()) > 1.5
        return values.double() / (255 if is_of_255 else 1)
    mean, deviation = (_column(values, own) for own in normalise)
    return values.double() * deviation + mean


def _column(like: Tensor, values: Sequence[float]) -> Tensor:
    column = torch.tensor(list(values), dtype=torch.float64).reshape(-1, *[1] * (like.ndim - 1))
    return column if len(column) in (1, len(like)) else column.mean(0, keepdim=True)


def of_values(normalise: Normalise) -> Iterator[Deviation]:
    """What can go wrong between bytes of 0..255 and normalised values, the likeliest first."""

    def norm(x: Tensor) -> Tensor:
        return normalised(x, normalise)

    if normalise is not None:
        mean, deviation = normalise
        yield Deviation("the values are not normalised", lambda x: x)
        yield Deviation("the values are neither divided by 255 nor normalised", lambda x: 255 * x)
        yield Deviation("the values are normalised twice", lambda x: norm(norm(x)))
        yield Deviation("the values are divided by 255 twice, then normalised", lambda x: norm(x / 255))
        yield Deviation("the values are normalised without being divided by 255", lambda x: norm(255 * x))
        yield Deviation("the values are normalised, then divided by 255", lambda x: norm(x) / 255)
        yield Deviation("mean and deviation are exchanged", lambda x: normalised(x, (deviation, mean)))
        yield Deviation("the mean is not subtracted", lambda x: normalised(x, ([0.0] * len(mean), deviation)))
        yield Deviation("the values are not divided by the deviation", lambda x: normalised(x, (mean, [1.0] * len(mean))))
        yield Deviation("the values are multiplied by the deviation", lambda x: normalised(x, (mean, [1 / own for own in deviation])))
        yield Deviation("the mean is added", lambda x: normalised(x, ([-own for own in mean], deviation)))
        yield Deviation("mean and deviation are in reverse channel order", lambda x: normalised(x, (mean[::-1], deviation[::-1])))
        yield Deviation("the mean of 0..255 is subtracted, and nothing divided", lambda x: 255 * normalised(x, (mean, [1.0] * len(mean))))
        yield Deviation("the normalised values are cut off below 0 and above 1", lambda x: norm(x).clamp(0, 1))
        yield Deviation("the normalised values are cut to whole numbers", lambda x: norm(x).trunc())
        yield Deviation("the normalised values overflow 8 bits", lambda x: norm(x).trunc() % 256)
    else:
        yield Deviation("the values are divided by 255 twice", lambda x: x / 255)
        yield Deviation("the values are not divided by 255", lambda x: 255 * x)
        yield Deviation("the values are divided by 255 and cut to whole numbers", lambda x: x.trunc())
    yield Deviation("light and dark are exchanged", lambda x: norm(1 - x))
    yield Deviation("the values are made linear light", lambda x: norm(torch.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)))
    yield Deviation("every picture is black", lambda x: norm(torch.zeros_like(x)))
    for name, values in KNOWN.items():
        yield Deviation(f"the values are normalised by {name}", lambda x, values=values: normalised(x, values))  # type: ignore[misc]


def of_channels(normalise: Normalise) -> Iterator[Deviation]:
    """The colours in another order, or only their brightness."""

    def norm(x: Tensor) -> Tensor:
        return normalised(x, normalise)

    names = ("red", "green", "blue")
    for order in sorted(permutations(range(3)), key=lambda order: order != (2, 1, 0)):
        if order != (0, 1, 2):
            said = "red and blue are exchanged (BGR)" if order == (2, 1, 0) else (
                f"the channels are {', '.join(names[place] for place in order)}"
            )
            yield Deviation(said, lambda x, order=order: norm(x[list(order)]) if len(x) == 3 else norm(x))  # type: ignore[misc]
            yield Deviation(f"{said}, behind the normalisation", lambda x, order=order: norm(x)[list(order)] if len(x) == 3 else norm(x))  # type: ignore[misc]
    yield Deviation("the colours are lost", lambda x: norm(grey(x)))
    for channel, name in enumerate(names):
        yield Deviation(f"every channel carries {name}", lambda x, channel=channel: norm(x[[channel] * len(x)]) if len(x) == 3 else norm(x))  # type: ignore[misc]


def grey(x: Tensor) -> Tensor:
    """The brightness in every channel (ITU-R BT.601, as Pillow's L)."""
    if len(x) != 3:
        return x
    return (0.299 * x[0] + 0.587 * x[1] + 0.114 * x[2]).expand_as(x)


def of_layout(normalise: Normalise) -> Iterator[Deviation]:
    """The picture in another direction, or torn up."""

    def norm(x: Tensor) -> Tensor:
        return normalised(x, normalise)

    yield Deviation("the picture is mirrored", lambda x: norm(x.flip(-1)))
    yield Deviation("the picture stands upside down", lambda x: norm(x.flip(-2)))
    yield Deviation("the picture is turned by 180 degrees", lambda x: norm(x.flip(-1, -2)))
    yield Deviation("rows and columns are exchanged", lambda x: norm(x.transpose(-1, -2)))
    yield Deviation("the picture is turned to the left", lambda x: norm(x.rot90(1, (-2, -1))))
    yield Deviation("the picture is turned to the right", lambda x: norm(x.rot90(-1, (-2, -1))))
    yield Deviation(REARRANGED, lambda x: norm(x.permute(1, 2, 0).reshape(x.shape)))
    yield Deviation(f"{REARRANGED} (the other way)", lambda x: norm(x.reshape(*x.shape[1:], -1).permute(2, 0, 1)))


REARRANGED = "the spatial layout is scrambled: (H, W, C) is reshaped to (C, H, W) instead of permuted"


def explain(
    references: Sequence[Tensor], others: Sequence[Tensor], normalise: Normalise, *, layout: bool = True, enough: float = ENOUGH,
    only: str | None = None,
) -> Explanation | None:
    """The likeliest single deviation, or value and channel together, that makes `others` of `references`.

    Args:
        references: (C, ...) each, as a preparation made them that applies `normalise`.
        others: of the same shapes.
        normalise: mean and deviation by channel.
        layout: whether directions are tried too; they need (C, H, W).
        enough: the share of the difference that may be left.
        only: the name of the one deviation that is tried.

    Returns:
        None where nothing explains it.
    """
    pictures = [undone(one, normalise) for one in references]
    is_of_255 = normalise is None and any(float(one.max()) > 1.5 for one in references)
    received = [one.double() / (255 if is_of_255 else 1) for one in others]
    whole = residual([normalised(one, normalise) for one in pictures], received)
    values, channels = list(of_values(normalise)), list(of_channels(normalise))
    if is_of_255:
        values[:2] = [Deviation("the values are divided by 255", lambda x: x / 255)]
    singles = values + channels + (list(of_layout(normalise)) if layout else [])
    both = [
        Deviation(f"{channel.name}, and {value.name}", lambda x, value=value, channel=channel: value.make(channel.make(x)))  # type: ignore[misc]
        for channel in of_channels(None) for value in values if "behind" not in channel.name
    ]
    for tried in (singles, both):
        fits = [fit(one, pictures, received, whole) for one in tried if only in (None, one.name)]
        best = min(fits, key=lambda found: found.left, default=None)
        if best is not None and best.left < enough:
            return best
    return None


def fit(deviation: Deviation, pictures: Sequence[Tensor], received: Sequence[Tensor], whole: float) -> Explanation:
    """How much of the difference `whole` a deviation leaves."""
    try:
        left = residual([deviation.make(one) for one in pictures], received)
    except (RuntimeError, IndexError):  # it cannot be of such a shape
        left = float("inf")
    return Explanation(deviation.name, left / max(whole, 1e-12))


def residual(made: Sequence[Tensor], received: Sequence[Tensor]) -> float:
    """The mean difference over the mean deviation of what was received: of any scale."""
    if any(one.shape != other.shape for one, other in zip(made, received, strict=True)):
        return float("inf")
    return float(torch.stack([(one - other).abs().mean() for one, other in zip(made, received, strict=True)]).mean())
