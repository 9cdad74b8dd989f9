"""L09: whether gradients that are added up over micro-batches are those of the whole batch."""

from collections.abc import Iterator

import torch
from torch import Tensor

from catdog.doctor.examination import CannotTell, examination
from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.loop.rehearsal import Rehearsal, next_update
from catdog.doctor.loop.stillness import still
from catdog.doctor.patient import Batch, Patient, tensors_in
from catdog.doctor.snapshot import Snapshot
from catdog.doctor.tape import Tape

SAME_DIRECTION = 0.9999
"""Cosine from which on two gradients differ by a factor alone."""
OFF = 0.01
"""A factor nearer to 1 is rounding."""


@examination(
    "L09", "accumulation", catches="gradients of micro-batches that are added up without the right division",
    needs=("optimizer", "loss"), passes=8,
)
def accumulation(patient: Patient) -> Iterator[Finding]:
    """Compare the gradient at an update with that of the whole batch at once: what factor lies between them?"""
    if patient.intent.accumulate == 1 and _is_plain(Rehearsal.of(patient)):
        return
    with still(patient.model):
        next_update(patient)  # to where a loop that counts its calls begins anew
        calls = max(patient.intent.accumulate, next_update(patient).calls)
        whole, parts = _parts(patient.batch, calls)
        start = Snapshot.of(patient)
        made = next_update(patient, parts)
        used, tape = made.gradients, made.tape
        start.restore()
        reference = _gradients_of(patient, whole)
    if calls == 1 and not _is_split(tape, whole):
        return
    micro = len(tape.of("forward"))
    cosine, factor = _compared(used, reference)
    if abs(cosine) < SAME_DIRECTION:
        start.restore()
        with still(patient.model):
            last = _gradients_of(patient, parts[-1] if calls > 1 else (whole[0].chunk(micro)[-1], whole[1].chunk(micro)[-1]))
        if _compared(used, last)[0] > SAME_DIRECTION:
            yield _last_alone(tape, micro, cosine)
            return
        raise CannotTell(f"the loop trains on another loss than it was given: cosine {cosine:.3f} with the whole batch's gradient")
    if abs(factor - 1) > OFF and not (patient.intent.reduction == "sum" and abs(factor - micro) < OFF * micro):
        yield _finding(tape, factor, cosine, micro=micro, images=len(whole[0]))


def _compared(used: dict[Tensor, Tensor], reference: dict[Tensor, Tensor]) -> tuple[float, float]:
    """(cosine, factor) of all gradients together.

    Raises:
        CannotTell: there are none.
    """
    shared = [one for one in used if one in reference and bool(reference[one].any())]
    if not shared:
        raise CannotTell("the whole batch gives no gradient to what the loop updates")
    mine, theirs = (torch.cat([gradients[one].double().flatten() for one in shared]) for gradients in (used, reference))
    along = mine @ theirs
    return float(along / (mine.norm() * theirs.norm()).clamp(min=1e-30)), float(along / (theirs @ theirs))


def _last_alone(tape: Tape, micro: int, cosine: float) -> Finding:
    zeros = tape.of("zero")
    place = zeros[0].place if zeros else None
    return Finding(
        "L09", "error", f"Of {micro} micro-batches only the last one counts: the gradients of the others are wiped",
        Culprit("zero_grad", str(place) if place else None),
        (f"{len(zeros)} times zeroed for one update; cosine {cosine:.3f} with the whole batch's gradient, 1.000 with the last part's",),
        "Zero the gradients once for each update, not for each micro-batch.",
    )


def _is_plain(rehearsal: Rehearsal) -> bool:
    """Whether there is one forward pass to an update."""
    return len(rehearsal.tape.of("forward")) <= len(rehearsal.tape.of("step")) and rehearsal.calls <= len(rehearsal.updates)


def _parts(batch: Batch, calls: int) -> tuple[Batch, list[Batch]]:
    """The batch, cut so that it parts evenly, and its parts. Of parts of unlike size a mean of means is another thing, and not wrong."""
    inputs, target = batch
    if len(inputs) < calls:
        repeats = -(-calls // len(inputs))
        inputs, target = torch.cat([inputs] * repeats), torch.cat([target] * repeats)
    images = len(inputs) // calls * calls
    inputs, target = inputs[:images], target[:images]
    return (inputs, target), list(zip(inputs.chunk(calls), target.chunk(calls), strict=True))


def _gradients_of(patient: Patient, batch: Batch) -> dict[Tensor, Tensor]:
    """Of the owner's criterion on the whole batch."""
    parameters = [one for one in patient.model.parameters() if one.requires_grad]
    for one in parameters:
        one.grad = None
    if patient.loss is None:
        return {}
    torch.autograd.backward(patient.loss(patient.model(batch[0]), batch[1]))
    return {one: one.grad.detach().clone() for one in parameters if one.grad is not None}


def _is_split(tape: Tape, whole: Batch) -> bool:
    """Whether one call goes through the batch in several forward passes, each image once, and adds their gradients up."""
    sizes = [len(tensors[0]) for event in tape.of("forward") if (tensors := tensors_in(list(event.given)))]
    closure = any(event.given for event in tape.of("step"))
    return len(sizes) > 1 and sum(sizes) == len(whole[0]) and len(set(sizes)) == 1 and not closure


def _finding(tape: Tape, factor: float, cosine: float, *, micro: int, images: int) -> Finding:
    backs = tape.of("backward")
    place = backs[0].place if backs else None
    if abs(factor - micro) < OFF * micro:
        why = f"each micro-batch's mean is added up and never divided by their number, {micro}"
        remedy = f"Divide the loss of each micro-batch by {micro} before backward."
    elif abs(factor * micro - 1) < OFF:
        why, remedy = f"the loss is divided by {micro} once too often", "Divide it once."
    elif abs(factor - images) < OFF * images:
        why = f"the loss is a sum over {images} images where the criterion returns a mean"
        remedy = "Divide by the images of the whole batch."
    else:
        steps = f"{micro} micro-batches of {images // max(1, micro)} images"
        why, remedy = f"no division that fits {steps}", "Divide the loss of each micro-batch by their number before backward."
    return Finding(
        "L09", "error", f"The gradient of {micro} micro-batches is {factor:.4g} times that of the batch they make up: {why}",
        Culprit("loss / accumulation", str(place) if place else None), (f"factor {factor:.5g}, cosine {cosine:.6f}, {images} images",),
        remedy,
    )


EXAMINATIONS = (accumulation,)
