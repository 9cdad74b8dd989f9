"""L04: whether an update is made from the gradients of its own batch alone."""

from collections.abc import Iterator

import torch
from torch import Tensor

from catdog.doctor.examination import examination
from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.loop.rehearsal import Rehearsal, next_update
from catdog.doctor.patient import Patient
from catdog.doctor.snapshot import Snapshot

ROUNDING = 1e-3
"""Of a gradient: what adding up in another order may do to it."""


@examination(
    "L04", "gradient freshness", catches="gradients that are never zeroed: each update uses those of all batches before it",
    needs=("optimizer", "loss"), passes=6, of_large=True,
)
def gradient_freshness(patient: Patient) -> Iterator[Finding]:
    """Make the second update twice, from the same weights and random numbers: as the loop makes it, and with nothing left of the first."""
    if _is_zeroed(patient, Rehearsal.of(patient)):
        return
    first = next_update(patient).gradients
    left = {one: one.grad.detach().clone() for one in first if one.grad is not None}
    if not any(bool(gradient.any()) for gradient in left.values()):
        return
    start = Snapshot.of(patient)
    second = next_update(patient)
    used = second.gradients
    start.restore()
    for parameter in {*first, *patient.model.parameters()}:
        parameter.grad = None
    fresh = next_update(patient).gradients
    stale = [
        one for one, gradient in left.items() if one in used and one in fresh and bool(gradient.any()) and not _close(used[one], fresh[one])
    ]
    expected = {one: fresh[one] + left[one] for one in stale}
    if not stale or _distance(used, expected) > 10 * ROUNDING:
        return
    names = {id(parameter): name for name, parameter in patient.model.named_parameters()}
    bare = Rehearsal.of(patient).bare("zero_grad")
    steps = second.tape.of("step")
    place = bare or (steps[-1].place if steps else None)
    yield Finding(
        "L04", "error", "Gradients are never zeroed: the second update uses those of the first batch as well",
        Culprit("zero_grad", str(place) if place else None),
        (
            f"{len(stale)} of {len(used)} parameters, such as {names.get(id(stale[0]), 'one of a loss')}: "
            f"the gradient used is the fresh one plus what the first update left, to {_distance(used, expected):.1e}",
            f"norm of the gradient used {_norm(used, stale):.3g}, of the fresh one {_norm(fresh, stale):.3g}",
        ),
        f"Write `{bare.code}()` with its brackets." if bare else "Call optimizer.zero_grad() before every backward, or behind every step.",
    )


def _is_zeroed(patient: Patient, rehearsal: Rehearsal) -> bool:
    """Whether all that an update is made from was zeroed since the update before it: there is then nothing to replay."""
    ends = [update.number for update in rehearsal.updates]
    for update, former in zip(rehearsal.updates[1:], ends, strict=False):
        events = rehearsal.tape.events[former : update.number]
        first = next((position for position, event in enumerate(events) if event.kind == "backward"), len(events))
        if not any(event.kind == "zero" and event.of in (update.optimizer, patient.model) for event in events[:first]):
            return False
    return len(ends) > 1 and not any(event.given for event in rehearsal.tape.of("step"))


def _close(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).norm() <= ROUNDING * other.norm())


def _norm(gradients: dict[Tensor, Tensor], of: list[Tensor]) -> float:
    return float(torch.stack([gradients[one].norm() for one in of]).norm())


def _distance(used: dict[Tensor, Tensor], expected: dict[Tensor, Tensor]) -> float:
    """Of everything together, relative."""
    off = torch.stack([(used[one] - value).norm() for one, value in expected.items()]).norm()
    return float(off / torch.stack([value.norm() for value in expected.values()]).norm().clamp(min=1e-30))


EXAMINATIONS = (gradient_freshness,)
