"""L06: whether the loop goes downhill."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from catdog.doctor.examination import CannotTell, Examination, examination
from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.loop.rehearsal import Made, next_update
from catdog.doctor.loss.clean import clean_loss
from catdog.doctor.patient import Patient
from catdog.doctor.snapshot import Snapshot

UPHILL = -0.5
"""Cosine of the loop's gradient with the plain loss's: mixing, smoothing, clipping leave it above 0.5, a wrong sign below this."""
STEPS = (1e-3, 1e-4)
"""Of the way, as shares of the length of the weights."""


@examination(
    "L06", "descent direction", catches="gradient ascent, a wrong sign, a backward that goes another way than its loss",
    needs=("loss", "optimizer"), passes=8,
)
def descent_direction(patient: Patient) -> Iterator[Finding]:
    """Compare the loop's gradient with that of the plain loss of the same images, and walk a little along it to see."""
    start = Snapshot.of(patient)
    made = next_update(patient)
    start.restore()
    loss = clean_loss(patient)
    plain, function = _plain_gradients(patient, loss)
    shared = [one for one in made.gradients if one in plain and bool(plain[one].any()) and bool(made.gradients[one].isfinite().all())]
    if not shared:
        raise CannotTell("the plain loss gives no gradient to what the loop updates")
    sign = -1.0 if _maximizes(made) else 1.0
    mine, theirs = ([gradients[one].detach() for one in shared] for gradients in (made.gradients, plain))
    length = torch.stack([one.norm() for one in mine]).norm() * torch.stack([one.norm() for one in theirs]).norm()
    cosine = sign * float(sum((one * other).sum() for one, other in zip(mine, theirs, strict=True)) / length.clamp(min=1e-30))
    start.restore()
    if cosine < UPHILL:
        rises = [_change(loss, shared, [-sign * one for one in mine], step, start) for step in STEPS]
        if all(rise > 0 for rise in rises):
            yield _uphill(made, cosine, rises)
    elif function is not None:
        yield from _own_backward(loss, plain, function, start)


def _plain_gradients(patient: Patient, loss: Callable[[], Tensor]) -> tuple[dict[Tensor, Tensor], str | None]:
    """By parameter, and the name of an autograd Function on the way that is not torch's."""
    parameters = [one for one in patient.model.parameters() if one.requires_grad]
    value = loss()
    came = torch.autograd.grad(value, parameters, allow_unused=True)
    return {one: gradient for one, gradient in zip(parameters, came, strict=True) if gradient is not None}, _own_function(value)


def _maximizes(made: Made) -> bool:
    groups = [group for event in made.tape.of("step") for group in event.of.param_groups]
    return bool(groups) and all(bool(group.get("maximize", False)) for group in groups)


def _change(
    loss: Callable[[], Tensor], parameters: list[Tensor], direction: list[Tensor], step: float, start: Snapshot,
) -> float:
    """By how much the loss changes over a step of that share of the weights' length; with the same random numbers."""
    start.restore()
    before = float(loss().detach())
    start.restore()
    weights = torch.stack([one.detach().norm() for one in parameters]).norm()
    length = torch.stack([one.norm() for one in direction]).norm().clamp(min=1e-30)
    with torch.no_grad():
        torch._foreach_add_(parameters, direction, alpha=float(step * weights.clamp(min=1e-3) / length))
    after = float(loss().detach())
    start.restore()
    return after - before


def _uphill(made: Made, cosine: float, rises: list[float]) -> Finding:
    places = made.tape.of("backward") or made.tape.of("step")
    place = places[0].place if places else None
    return Finding(
        "L06", "error", "The loop climbs: its updates make the right answers less likely",
        Culprit("sign of the loss", str(place) if place else None),
        (
            f"cosine {cosine:.3f} between its gradient and that of the plain loss",
            "along its way the loss changes by "
            + ", ".join(f"{rise:+.3g} (step {step:g})" for rise, step in zip(rises, STEPS, strict=True)),
        ),
        "Look for a minus before the loss, a reversed gradient or maximize=True.",
    )


def _own_function(value: Tensor) -> str | None:
    seen: set[Any] = set()
    waiting: list[Any] = [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, torch.autograd.function.BackwardCFunction) and not type(node).__module__.startswith("torch."):
            return type(node).__name__.removesuffix("Backward")
        waiting += [following for following, _ in node.next_functions]
    return None


def _own_backward(loss: Callable[[], Tensor], plain: dict[Tensor, Tensor], function: str, start: Snapshot) -> Iterator[Finding]:
    """A backward somebody wrote: only a warning, for a straight-through estimator goes another way on purpose."""
    reached = [one for one, gradient in plain.items() if bool(gradient.any())]
    falls = [_change(loss, reached, [-plain[one] for one in reached], step, start) for step in STEPS]
    if all(fall > 0 for fall in falls):
        yield Finding(
            "L06", "warning", f"The gradient leads uphill: the backward of {function} does not belong to its forward", Culprit(function),
            ("along the negative gradient the loss changes by " + ", ".join(f"{fall:+.3g}" for fall in falls),),
            "Compare it with torch.autograd.gradcheck; a gradient that is reversed on purpose is no error.",
        )


EXAMINATIONS: tuple[Examination, ...] = (descent_direction,)
