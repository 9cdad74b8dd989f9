"""M08 sight: the network looks at the image, at each of its channels, and at more than half of its area."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from catdog.doctor.examination import CannotTell, Examination, examination
from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.model.redraw import Weights, answers, mode, seeded, settle, strangers
from catdog.doctor.model.trace import eager
from catdog.doctor.patient import Patient

CELLS = 8
"""Along each side of the image: the area is judged by its 64 cells."""
DARK = 0.5
"""Share of the cells that may be without effect: above it is an error."""
BORDER = 0.25
"""Above it is a warning; patches that do not fit leave a border."""
DRAWS = 8
"""Weights at which something must be without effect: of two dead outputs one is alive at three in four of them."""
CHANNELS = 4
"""An axis of images (N, C, H, W) or (N, H, W, C) that is no longer than this one is the channels'."""


@examination("M08", "sight", catches="an image, a channel or a region that the outputs do not depend on", passes=3)
def sight(patient: Patient) -> Iterator[Finding]:
    """An error where two witnesses agree: the gradient is exactly zero there, and other values there change no answer by a bit."""
    inputs, _ = patient.batch
    if len(inputs) < 2 or bool((inputs == inputs[:1]).all()):
        raise CannotTell("all images of the batch are the same")
    seen = _seen(patient)
    if seen is None:  # frozen under no_grad, or no floating point numbers to ask: values alone
        if _is_blind(patient, [strangers(inputs, seed=seed) for seed in range(2)], all_draws=True):
            yield _blind(patient, "the gradient does not come back to the image; other images change no answer")
        return
    if not bool(seen.any()):
        if _is_blind(patient, [strangers(inputs, seed=seed) for seed in range(2)], all_draws=True):
            yield _blind(patient, "the gradient is exactly 0 at every pixel; other images change no answer")
        return
    yield from _channels(patient, seen)
    yield from _area(patient, seen)


def _blind(patient: Patient, evidence: str) -> Finding:
    return Finding(
        "M08", "error", "The outputs do not depend on the image: every image gets the same answer, whatever the weights",
        Culprit(type(eager(patient.model)).__name__), (f"{evidence}, at {DRAWS} different weights, in training and in evaluation",),
        "Follow the inputs through forward: somewhere they are replaced, multiplied by zero or averaged away.",
    )


def _channels(patient: Patient, seen: Tensor) -> Iterator[Finding]:
    inputs, _ = patient.batch
    axis = _channel_axis(seen)
    if axis is None or bool(seen.flatten(2).any(dim=2).any(dim=0).all() if axis == 1 else seen.flatten(0, 2).any(dim=0).all()):
        return
    own = _channel_axis(inputs)
    if own is None:
        return
    unseen = [channel for channel in range(inputs.shape[own]) if _is_blind(patient, [_with_channel(inputs, own, channel)])]
    used = [channel for channel in range(inputs.shape[own]) if channel not in unseen]
    # A channel that is constant, or a copy of one that is looked at, has nothing to say.
    missed = [channel for channel in unseen if _says_more(inputs, own, channel, used)]
    if missed:
        names = ", ".join(map(str, missed))
        yield Finding(
            "M08", "error", f"The outputs do not depend on channel {names} of the image",
            Culprit(f"channel {names} of {inputs.shape[own]}"),
            ("the gradient is exactly 0 at every pixel of it", "other values in it change no answer"),
            "Look at what forward takes of its input, and at the channels of the first convolution.",
        )


def _area(patient: Patient, seen: Tensor) -> Iterator[Finding]:
    inputs, _ = patient.batch
    axis, own = _channel_axis(seen), _channel_axis(inputs)
    if axis is None or own is None:
        return
    pixels = seen.any(dim=0).any(dim=0 if axis == 1 else 2)
    if min(pixels.shape) < CELLS:
        return
    cells = torch.nn.functional.adaptive_max_pool2d(pixels[None].float(), CELLS)[0] > 0
    dark = 1 - float(cells.float().mean())
    if dark <= BORDER:
        return
    unseen = ~torch.nn.functional.interpolate(cells[None, None].float(), tuple(pixels.shape), mode="nearest")[0, 0].bool() & ~pixels
    unseen = unseen[None, None] if own == 1 else unseen[None, :, :, None]
    is_certain = unseen.shape[-2:] == inputs.shape[-2:] if own == 1 else unseen.shape[1:3] == inputs.shape[1:3]
    is_confirmed = bool(is_certain) and _is_blind(patient, [torch.where(unseen, strangers(inputs, seed=0), inputs)])
    picture = " / ".join("".join("#" if one else "." for one in row) for row in cells.tolist())
    yield Finding(
        "M08", "error" if dark > DARK and is_confirmed else "warning", f"The outputs do not depend on {dark:.0%} of the image's area",
        Culprit(f"{dark:.0%} of the area"),
        (f"cells that matter (#) and that do not (.): {picture}", *(("other values there change no answer",) if is_confirmed else ())),
        "Look at crops, strides and slices in forward, and at what is pooled.",
    )


def _seen(patient: Patient) -> Tensor | None:
    """Where the answers have a gradient, as a mask of the shape of the first floating point numbers; None where there is none to ask.

    At drawn weights, in training and in evaluation, until everything is seen.
    """
    inputs, _ = patient.batch
    weights, seen = Weights(eager(patient.model)), None
    for draw in range(DRAWS):
        weights.draw(draw, flip=draw > 0)
        settle(patient.model, inputs)
        for training in (True, False):
            seeded(draw)
            gradient = _gradient(patient, training=training)
            if gradient is None:
                return None
            seen = gradient.ne(0) if seen is None else seen | gradient.ne(0)  # not a number counts as seen
            if _is_enough(seen):
                return seen
        if draw == 1 and bool(seen is not None and seen.any()):
            break
    return seen


def _is_enough(seen: Tensor) -> bool:
    axis = _channel_axis(seen)
    if axis is None:
        return bool(seen.any())
    pixels, channels = seen.any(dim=0).any(dim=0 if axis == 1 else 2), seen.transpose(0, axis).flatten(1).any(dim=1)
    cells = torch.nn.functional.adaptive_max_pool2d(pixels[None].float(), CELLS) if min(pixels.shape) >= CELLS else pixels
    return bool(cells.bool().all() and channels.all())


def _gradient(patient: Patient, *, training: bool) -> Tensor | None:
    """Of a random sum over the answers, by the image; where that is of whole numbers, by the first floating point numbers made of it."""
    inputs, _ = patient.batch
    asked = inputs.detach().clone()
    if asked.is_floating_point():
        asked.requires_grad_()
    first = _FirstFloats(asked)
    with mode(patient.model, training=training), first:
        said = answers(patient.model(asked), len(asked))
    leaf = asked if asked.is_floating_point() else first.leaf
    if leaf is None or not said.requires_grad:
        return None
    weights = torch.rand(said.shape, generator=torch.Generator().manual_seed(0)).to(said).add(0.5)
    torch.autograd.backward((said * weights).sum())
    if leaf.grad is None:
        return None
    return leaf.grad


class _FirstFloats(TorchFunctionMode):
    """Makes the first floating point numbers, as many as there are in whole-numbered inputs and made of them, a leaf to ask."""

    def __init__(self, inputs: Tensor) -> None:
        super().__init__()
        self._numel = inputs.numel() if not inputs.is_floating_point() else None
        self.leaf: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if (
            self._numel is not None and self.leaf is None and isinstance(result, Tensor) and result.is_floating_point()
            and result.numel() == self._numel
            and any(isinstance(one, Tensor) and not one.is_floating_point() and one.numel() == self._numel for one in args)
        ):
            self.leaf = result.detach().requires_grad_()
            return self.leaf
        return result


def _is_blind(patient: Patient, others: list[Tensor], *, all_draws: bool = False) -> bool:
    """Whether other inputs change no answer by a bit, at drawn weights, in training and in evaluation."""
    inputs, _ = patient.batch
    weights = Weights(eager(patient.model))
    for draw in range(DRAWS if all_draws else 1):
        weights.draw(draw, flip=draw > 0)
        settle(patient.model, inputs)
        for training in (False, True):
            with torch.no_grad(), mode(patient.model, training=training):
                said = []
                for one in (inputs, *others):
                    seeded(draw)
                    said.append(answers(patient.model(one), len(inputs)))
            if any(not torch.equal(said[0], one) for one in said[1:]):
                weights.back()
                return False
    weights.back()
    return True


def _with_channel(inputs: Tensor, axis: int, channel: int) -> Tensor:
    other = inputs.clone()
    other.select(axis, channel).copy_(strangers(inputs, seed=channel).select(axis, channel))
    return other


def _says_more(inputs: Tensor, axis: int, channel: int, used: list[int]) -> bool:
    values = inputs.select(axis, channel)
    is_constant = bool((values == values.flatten()[0]).all())
    return not is_constant and not any(torch.equal(values, inputs.select(axis, one)) for one in used)


def _channel_axis(images: Tensor) -> int | None:
    if images.ndim != 4:
        return None
    if images.shape[1] <= CHANNELS:
        return 1
    return 3 if images.shape[3] <= CHANNELS else None


EXAMINATIONS: tuple[Examination, ...] = (sight,)
