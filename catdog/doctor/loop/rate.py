"""rate_that_learns: whether the learning rate is one at which this network can learn at all.

It is judged with the doctor's own steps and the plain loss, with the owner's optimizer: so nothing else that may be wrong with the loop
hides it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.loop.rehearsal import Rehearsal
from catdog.doctor.loss.clean import clean_loss
from catdog.doctor.patient import Patient
from catdog.doctor.snapshot import Snapshot

STEPS = 12
CALM = 4
"""Steps that are enough where nothing happens."""
QUIET = 0.05
"""An update as a share of the weights, under which nothing does."""
MILDER = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""Factors of the learning rate, in turn, until one learns."""
WORSE = 3.0
"""Times the loss of the beginning: it has diverged."""
FAR_WORSE = 30.0
"""Times the loss of the beginning, on the way."""
TOO_LARGE = 0.3
"""An update as a share of the weights, in the middle over the weight matrices: networks that learn make updates of 1e-4 to 1e-1."""
NORMED = (
    torch.optim.Adam, torch.optim.AdamW, torch.optim.Adamax, torch.optim.NAdam, torch.optim.RAdam, torch.optim.RMSprop, torch.optim.Rprop,
)
"""Their updates are as large as the learning rate, whatever the gradient. Another's may be large for two steps and none the worse for it:
weights before batch normalisation have no size of their own."""
TOO_SMALL = 1e-7
"""The same: float32 does not add numbers so small."""


@dataclass(frozen=True, slots=True)
class _Try:
    """A few steps at one learning rate."""

    losses: list[float]
    ratio: float
    """The largest update of the first three, as a share of the weights; NaN where no matrix has weights to speak of."""

    @property
    def diverges(self) -> bool:
        """Whether it ends far above its beginning, or goes through the roof on its way."""
        first = max(self.losses[0], 1e-3)
        return not all(map(math.isfinite, self.losses)) or min(self.losses[-3:]) > WORSE * first or max(self.losses) > FAR_WORSE * first

    @property
    def learns(self) -> bool:
        """Whether it falls without ever leaving the neighbourhood of where it began."""
        first = max(self.losses[0], 1e-3)
        return all(map(math.isfinite, self.losses)) and max(self.losses) < WORSE * first and min(self.losses) < self.losses[0]


def rate_that_learns(patient: Patient) -> Iterator[Finding]:
    """Try the present learning rate on one batch; where that goes wrong, smaller ones."""
    optimizer = patient.optimizer
    if optimizer is None:
        return
    highest = max((float(group.get("lr", 0.0)) for group in optimizer.param_groups), default=0.0)
    if highest <= 0 or any(event.given for event in Rehearsal.of(patient).tape.of("step")):
        return  # no learning rate yet, or an optimizer that looks for its own steps
    start = Snapshot.of(patient)
    present = _tried(patient, 1.0, start)
    if present is None:
        return
    place = Rehearsal.of(patient).making(optimizer)
    culprit = Culprit(f"lr={highest:g} of {type(optimizer).__name__}", str(place) if place else None)
    if present.diverges or present.ratio > (2 if not present.learns else 10) * TOO_LARGE:
        for factor in MILDER:
            milder = _tried(patient, factor, start)
            if milder is not None and milder.learns and milder.ratio < TOO_LARGE:
                is_far_off = present.ratio > 10 * TOO_LARGE and isinstance(optimizer, NORMED)
                is_sure = is_far_off or (present.diverges and present.ratio > TOO_LARGE)
                yield _too_high(culprit, highest, present, factor, milder, is_sure=is_sure)
                return
    is_warming_up = patient.scheduler is not None or patient.schedule is not None
    if 0 < present.ratio < TOO_SMALL and not is_warming_up:
        yield Finding(
            "L08", "warning", f"The learning rate {highest:g} is so small that nothing moves", culprit,
            (f"an update changes the weights by {present.ratio:.1e} of their size",),
            "Raise it until an update is about 1e-3 of the weights.",
        )


def _too_high(culprit: Culprit, rate: float, present: _Try, factor: float, milder: _Try, *, is_sure: bool) -> Finding:
    def told(one: _Try) -> str:
        return f"{one.losses[0]:.3g} to {one.losses[-1]:.3g}, at most {max(one.losses):.3g}"

    return Finding(
        "L08", "error" if is_sure else "warning", f"The learning rate {rate:g} is far too high", culprit,
        (
            f"an update is {present.ratio:.3g} times as large as the weights (in the middle over the matrices)",
            f"plain loss over {len(present.losses) - 1} steps on one batch: {told(present)}",
            f"at {rate * factor:g}: {told(milder)}, updates of {milder.ratio:.2g} of the weights",
        ),
        f"Try {rate * factor:g} or less.",
    )


def _tried(patient: Patient, factor: float, start: Snapshot) -> _Try | None:
    start.restore()
    optimizer = patient.optimizer
    if optimizer is None:
        return None
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * factor
    matrices = [one for one in patient.model.parameters() if one.requires_grad and one.ndim > 1]
    loss = clean_loss(patient)
    losses, ratio = [], math.nan
    for number in range(STEPS):
        optimizer.zero_grad()
        value = loss()
        losses.append(float(value.detach()))
        if not value.requires_grad or not math.isfinite(losses[-1]) or losses[-1] > 1e6 * max(losses[0], 1e-3):
            break
        torch.autograd.backward(value)
        before = [one.detach().clone() for one in matrices] if number < 3 else []
        try:
            optimizer.step()
        except (NotImplementedError, TypeError):  # it is made for other calls than these
            start.restore()
            return None
        is_calm = number == CALM and ratio < QUIET and max(losses) < 1.5 * losses[0]
        if before:
            ratio = max(ratio, _ratio(matrices, before)) if ratio == ratio else _ratio(matrices, before)
        if is_calm:
            break
    if len(losses) > 1 and math.isfinite(losses[-1]):
        losses.append(float(loss().detach()))
    start.restore()
    return _Try(losses, ratio)


def _ratio(matrices: list[nn.Parameter], before: list[torch.Tensor]) -> float:
    """In the middle over the matrices that have moved: the size of the update over that of the weights."""
    ratios = [
        float((one.detach() - former).norm() / former.norm())
        for one, former in zip(matrices, before, strict=True) if float(former.norm()) > 1e-4 * math.sqrt(former.numel())
    ]
    moved = sorted(ratio for ratio in ratios if ratio > 0)
    return moved[len(moved) // 2] if moved else math.nan
