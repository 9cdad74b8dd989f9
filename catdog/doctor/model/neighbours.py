"""M09 neighbours: in evaluation, what is said of an image depends on that image alone."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from catdog.doctor.examination import CannotTell, Examination, examination
from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.model.operations import Operation, Operations, by_row
from catdog.doctor.model.redraw import Weights, answers, mode, seeded, settle, strangers
from catdog.doctor.model.trace import eager
from catdog.doctor.patient import ANY_ERROR, Patient

CLOSE = 1e-5
"""Share of the largest answer within which two are equal in float32; where they are not, float64 is asked."""
CLOSE_DOUBLE = 1e-9
COARSE = 1e-3
"""Where there is no float64: no rounding is as large."""
BATCHES = (7, 5)
"""Two sizes of a batch: an axis that happens to be as long as one is not as long as the other."""


@examination("M09", "neighbours", catches="tokens mixed over the batch, softmax or norm over the batch, statistics of the batch", passes=4)
def neighbours(patient: Patient) -> Iterator[Finding]:
    """An error where two of four agree: another first or last image, another order, or being alone changes what is said of the others."""
    inputs, _ = patient.batch
    if len(inputs) < 2 or patient.intent.transductive:
        raise CannotTell("a batch of one image" if len(inputs) < 2 else "meant to depend on the batch")
    Weights(eager(patient.model)).draw(0)  # a head of zeros says the same of everything
    settle(patient.model, inputs)
    with torch.no_grad(), mode(patient.model, training=False):
        is_random = _is_random(patient)
        apart = _apart(patient.model, inputs, is_random=is_random)
        if max((value for value in apart.values() if value is not None), default=0.0) > CLOSE:
            close, exact = _exactly(patient, inputs, is_random=is_random)
            apart, tolerance = (exact, CLOSE_DOUBLE) if exact is not None else (apart, COARSE)
            failed = {name: value for name, value in apart.items() if value is not None and value > tolerance}
            if failed:
                is_certain = len(failed) > 1 and not _observes(patient)
                yield _finding(patient, inputs, failed, precision=close, is_certain=is_certain)
        if apart["alone"] is None and not is_random:
            yield Finding(
                "M09", "warning", "A batch of one image is answered in another shape, or not at all", Culprit(type(patient.model).__name__),
                remedy="Look for squeeze() without an axis; a served image and the last batch of an epoch may be alone.",
            )


def _is_random(patient: Patient) -> bool:
    """Whether two evaluations differ; M11 may know."""
    if "random in evaluation" not in patient.known:
        said = []
        for seed in (0, 1):
            seeded(seed)
            said.append(_asked(patient.model, patient.batch[0]))
        patient.known["random in evaluation"] = not torch.equal(*said)
    return bool(patient.known["random in evaluation"])


def _observes(patient: Patient) -> bool:
    """Whether an evaluation changes buffers: an observer of ranges, as quantisation has it, is meant to look at the whole batch."""
    network = eager(patient.model)
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    _asked(patient.model, strangers(patient.batch[0], seed=1))
    return any(not torch.equal(before[name], buffer) for name, buffer in network.named_buffers() if name in before)


def _asked(model: Any, inputs: Tensor) -> Tensor:
    return answers(model(inputs), len(inputs))


def _apart(model: Any, inputs: Tensor, *, is_random: bool) -> dict[str, float | None]:
    """How far answers move, as a share of the largest, by what was done. Random answers can only be compared in the same order."""

    def asked(images: Tensor) -> Tensor:
        seeded(0)
        return _asked(model, images)

    said = asked(inputs)
    scale = float(said.abs().max()) or 1.0
    stranger = strangers(inputs, seed=0)
    first, last = torch.cat((stranger[:1], inputs[1:])), torch.cat((inputs[:-1], stranger[-1:]))
    apart: dict[str, float | None] = {
        "another first image": float((asked(first)[1:] - said[1:]).abs().max()) / scale,
        "another last image": float((asked(last)[:-1] - said[:-1]).abs().max()) / scale,
    }
    if is_random:
        return apart | {"alone": None}
    order = torch.arange(len(inputs) - 1, -1, -1, device=inputs.device)
    apart["another order"] = float((asked(inputs[order]) - said[order]).abs().max()) / scale
    try:
        alone = asked(inputs[-1:])
        moved = float((alone - said[-1:]).abs().max()) / scale if alone.shape == said[-1:].shape else math.nan
        apart["alone"] = moved if math.isfinite(moved) else None
    except ANY_ERROR:  # whatever somebody's network raises
        apart["alone"] = None
    return apart


def _exactly(patient: Patient, inputs: Tensor, *, is_random: bool) -> tuple[str, dict[str, float | None] | None]:
    """The same in float64, where rounding is no excuse; None where the network cannot."""
    network = eager(patient.model)
    state = {name: value.double() for name, value in (*network.named_parameters(), *network.named_buffers()) if value.is_floating_point()}

    def model(images: Tensor) -> Any:
        return torch.func.functional_call(network, state, (images.double() if images.is_floating_point() else images,))

    try:
        return "float64", _apart(model, inputs, is_random=is_random)
    except ANY_ERROR:  # a dtype that is written down somewhere
        return "float32", None


def _finding(patient: Patient, inputs: Tensor, failed: dict[str, float], *, precision: str, is_certain: bool) -> Finding:
    operation, network = _first_leak(patient, inputs), eager(patient.model)
    place = operation.place if operation is not None else None
    module = network.get_submodule(operation.path) if operation is not None else network
    what = operation.path if operation is not None and operation.path else type(network).__name__
    return Finding(
        "M09", "error" if is_certain else "warning",
        "What is said of an image depends on the other images of the batch"
        f"{f': {operation.name} in {type(module).__name__}' if operation else ''}",
        Culprit(what, str(place) if place else None),
        (
            *(f"{name}: the others' answers move by {value:.1e} of the largest, in {precision}" for name, value in failed.items()),
            *((f"first operation that mixes the rows: {operation.name}, {place.text}",) if operation and place else ()),
        ),
        "Keep the first axis for images: flatten(1), transpose after flatten, softmax(dim=1); running statistics in batch normalisation.",
    )


def _first_leak(patient: Patient, inputs: Tensor) -> Operation | None:
    """The first operation whose rows change with another row's image.

    Compared at two sizes of a batch: tokens that come first, as many as images, are no images.
    """
    network = eager(patient.model)
    leaks: list[set[int]] = []
    noted: list[Operation] = []
    for size in (min(len(inputs), BATCHES[0]), min(len(inputs) - 1, BATCHES[1])):
        if size < 2:
            continue
        batch = inputs[:size]
        other = torch.cat((strangers(batch, seed=0)[:1], batch[1:]))
        noted = _operations(network, batch)
        others = _operations(network, other)
        leaks.append({
            number for number, (one, two) in enumerate(zip(noted, others, strict=False))
            if one.kept is not None and two.kept is not None and _moved(one.kept[1:], two.kept[1:])
        })
    both = sorted(set.intersection(*leaks)) if leaks else []
    if not both:
        return None
    return noted[both[0]]


def _moved(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() > CLOSE * max(float(one.abs().max()), 1e-30))


def _operations(network: nn.Module, inputs: Tensor) -> list[Operation]:
    seeded(0)
    with Operations(network, by_row(len(inputs))) as operations:
        network(inputs)
    return operations.all


EXAMINATIONS: tuple[Examination, ...] = (neighbours,)
