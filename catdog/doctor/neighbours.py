"""M09 neighbours: in evaluation, what is said of an image depends on that image alone."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from catdog.doctor.examination import CannotTell, Examination, examination
from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.operations import Operation, Operations, by_row
from catdog.doctor.patient import Patient
from catdog.doctor.redraw import Weights, answers, mode, seeded, settle, strangers, unwrapped

CLOSE = 1e-5
"""Share of the largest answer within which two are equal in float32; where they are not, float64 is asked."""
CLOSE_DOUBLE = 1e-9
COARSE = 1e-3
"""Where there is no float64: no rounding is as large."""
BATCHES = (7, 5)
"""Two sizes of a batch: an axis that happens to be as long as one is not as long as the other."""


@examination("M09", "neighbours", catches="tokens mixed over the batch, softmax or norm over the batch, statistics of the batch", passes=5)
def neighbours(patient: Patient) -> Iterator[Finding]:
    """An error where two of three agree: another first image, another order, and being alone change what is said of the others."""
    inputs, _ = patient.batch
    if len(inputs) < 2 or patient.intent.transductive:
        raise CannotTell("a batch of one image" if len(inputs) < 2 else "meant to depend on the batch")
    Weights(unwrapped(patient.model)).draw(0)  # a head of zeros says the same of everything
    settle(patient.model, inputs)
    with torch.no_grad(), mode(patient.model, training=False):
        seeded(0)
        first = _asked(patient.model, inputs)
        seeded(1)
        is_random = not torch.equal(first, _asked(patient.model, inputs))
        apart = _apart(patient.model, inputs, is_random=is_random)
        if max((value for value in apart.values() if value is not None), default=0.0) > CLOSE:
            close, exact = _exactly(patient, inputs, is_random=is_random)
            apart, tolerance = (exact, CLOSE_DOUBLE) if exact is not None else (apart, COARSE)
            failed = {name: value for name, value in apart.items() if value is not None and value > tolerance}
            if failed:
                yield _finding(patient, inputs, failed, precision=close, is_certain=len(failed) > 1)
        if apart["alone"] is None and not is_random:
            yield Finding(
                "M09", "warning", "A batch of one image is answered in another shape, or not at all", Culprit(type(patient.model).__name__),
                remedy="Look for squeeze() without an axis; a served image and the last batch of an epoch may be alone.",
            )


def _asked(model: Any, inputs: Tensor) -> Tensor:
    return answers(model(inputs), len(inputs))


def _apart(model: Any, inputs: Tensor, *, is_random: bool) -> dict[str, float | None]:
    """How far answers move, as a share of the largest, by what was done. Random answers can only be compared in the same order."""

    def asked(images: Tensor) -> Tensor:
        seeded(0)
        return _asked(model, images)

    said = asked(inputs)
    scale = float(said.abs().max()) or 1.0
    other = torch.cat((strangers(inputs, seed=0)[:1], inputs[1:]))
    apart: dict[str, float | None] = {"another first image": float((asked(other)[1:] - said[1:]).abs().max()) / scale}
    if is_random:
        return apart | {"alone": None}
    order = torch.arange(len(inputs) - 1, -1, -1, device=inputs.device)
    apart["another order"] = float((asked(inputs[order]) - said[order]).abs().max()) / scale
    last = len(inputs) - 1
    try:
        alone = asked(inputs[last:])
        apart["alone"] = float((alone - said[last:]).abs().max()) / scale if alone.shape == said[last:].shape else None
    except Exception:  # noqa: BLE001 - whatever somebody's network raises
        apart["alone"] = None
    return apart


def _exactly(patient: Patient, inputs: Tensor, *, is_random: bool) -> tuple[str, dict[str, float | None] | None]:
    """The same in float64, where rounding is no excuse; None where the network cannot."""
    network = unwrapped(patient.model)
    state = {name: value.double() for name, value in (*network.named_parameters(), *network.named_buffers()) if value.is_floating_point()}

    def model(images: Tensor) -> Any:
        return torch.func.functional_call(network, state, (images.double() if images.is_floating_point() else images,))

    try:
        return "float64", _apart(model, inputs, is_random=is_random)
    except Exception:  # noqa: BLE001 - a dtype that is written down somewhere
        return "float32", None


def _finding(patient: Patient, inputs: Tensor, failed: dict[str, float], *, precision: str, is_certain: bool) -> Finding:
    operation, path, kind = _first_leak(patient, inputs)
    place = operation.place if operation is not None else None
    what = path or type(unwrapped(patient.model)).__name__
    return Finding(
        "M09", "error" if is_certain else "warning",
        f"What is said of an image depends on the other images of the batch{f': {operation.name} in {what} ({kind})' if operation else ''}",
        Culprit(what, str(place) if place else None),
        (
            *(f"{name}: the others' answers move by {value:.1e} of the largest, in {precision}" for name, value in failed.items()),
            *((f"first operation that mixes the rows: {operation.name}, {place.text}",) if operation and place else ()),
        ),
        "Keep the first axis for images: flatten(1), transpose after flatten, softmax(dim=1); running statistics in batch normalisation.",
    )


def _first_leak(patient: Patient, inputs: Tensor) -> tuple[Operation | None, str, str]:
    """The first operation whose rows change with another row's image; the module it is in, and that module's class.

    Compared at two sizes of a batch: tokens that come first, as many as images, are no images.
    """
    network = unwrapped(patient.model)
    leaks: list[set[int]] = []
    noted: list[Operation] = []
    inside: list[str] = []
    for size in (min(len(inputs), BATCHES[0]), min(len(inputs) - 1, BATCHES[1])):
        if size < 2:
            continue
        batch = inputs[:size]
        other = torch.cat((strangers(batch, seed=0)[:1], batch[1:]))
        noted, inside = _operations(network, batch)
        others, _ = _operations(network, other)
        leaks.append({
            number for number, (one, two) in enumerate(zip(noted, others, strict=False))
            if one.kept is not None and two.kept is not None and _moved(one.kept[1:], two.kept[1:])
        })
    both = sorted(set.intersection(*leaks)) if leaks else []
    if not both:
        return None, "", ""
    path = inside[both[0]]
    return noted[both[0]], path, type(network.get_submodule(path)).__name__


def _moved(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() > CLOSE * max(float(one.abs().max()), 1e-30))


def _operations(network: nn.Module, inputs: Tensor) -> tuple[list[Operation], list[str]]:
    """All operations, and of each the path of the innermost module that it is in."""
    stack: list[str] = [""]
    inside: list[str] = []
    keep = by_row(len(inputs))

    def kept(result: Tensor, arguments: tuple[Any, ...]) -> Tensor | None:
        inside.append(stack[-1])
        return keep(result, arguments)

    handles = []
    for path, module in network.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, path=path: stack.append(path)))
        handles.append(module.register_forward_hook(lambda *_: stack.pop() and None))
    operations = Operations(kept)
    seeded(0)
    try:
        with operations:
            network(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return operations.all, inside


EXAMINATIONS: tuple[Examination, ...] = (neighbours,)
