"""M10 head: the number of outputs, what the last layer does to them, and where the loss begins. N images, C labels."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from catdog.doctor.examination import CannotTell, Examination, examination
from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.model.criterion import WANTED, loss_kind, loss_lost
from catdog.doctor.model.operations import Operation, Operations
from catdog.doctor.model.redraw import ABSOLUTE, mode, seeded, settle
from catdog.doctor.model.trace import eager
from catdog.doctor.patient import Patient, logits_of

DRAWS = 3
"""Last weights at which outputs must keep within their bounds."""
LOUD = 10.0
"""Largest output, about, at the second and further of them: were there no activation. exp() can still take it."""
LEAST = 0.05
"""What a loss loses by outputs in bounds: sigmoid before cross-entropy 0.31 of two labels, tanh 0.13."""
FAR = 3.0
"""Times ln C from which on a first loss is far from knowing nothing (Karpathy 2019, https://karpathy.github.io/2019/04/25/recipe/)."""
CHANCE = 0.05
"""Of a batch that shows no image of the labels that the network has outputs for, if all were equally frequent."""
SQUASHING = {
    "softmax": "softmax", "log_softmax": "log_softmax", "sigmoid": "sigmoid", "sigmoid_": "sigmoid", "hardsigmoid": "sigmoid",
    "tanh": "bounded", "tanh_": "bounded", "hardtanh": "bounded",
}
"""torch's functions by the range they keep."""
BENDING = frozenset({"relu", "relu_", "relu6", "gelu", "silu", "elu", "softplus", "hardswish", "mish"})
"""Activations without an upper bound: nothing negative, or hardly, can be said after them."""


@examination("M10", "head", catches="a wrong number of outputs, softmax or sigmoid before cross-entropy", passes=3)
def head(patient: Patient) -> Iterator[Finding]:
    """Errors: an output without a label, or the reverse; a range, measured and in the code, that the loss does not take."""
    last = _last(patient)
    logits = logits_of(last.outputs)
    if logits is None or not logits.is_floating_point() or logits.ndim == 0:
        raise CannotTell("no logits")
    kind = loss_kind(patient, last.outputs)
    yield from _number(patient, logits, kind, last)
    shape = _range(patient, last)
    yield from _activation(patient, shape, kind, last)
    if kind == "cross_entropy" and shape is None:
        yield from _start(patient, logits, last)


@dataclass(frozen=True, slots=True)
class _Last:
    """Where the outputs are made."""

    outputs: Any
    """What the network returns, of the batch, in training."""
    operation: Operation | None
    """The last one, but for those that only view its result."""
    module: str
    """The path of the last module with weights that was called; empty: the network itself."""


def _number(patient: Patient, logits: Tensor, kind: str | None, last: _Last) -> Iterator[Finding]:
    """One output for each label; or a single one where the loss asks yes or no."""
    target = patient.batch[1]
    outputs = 1 if logits.ndim == 1 else logits.shape[1]
    if logits.ndim > 2 or (outputs == 1 and kind != "cross_entropy"):
        return
    culprit = _culprit(patient, last)
    if patient.data is not None:
        if outputs != patient.labels and target.ndim == 1:
            yield Finding(
                "M10", "error", f"The network has {outputs} outputs for {patient.labels} labels", culprit,
                (f"outputs {tuple(logits.shape)}", f"labels {list(patient.data.labels)[:5]}", f"targets up to {int(target.max())}"),
                f"Give the last layer {patient.labels} outputs.",
            )
    elif outputs == 1:
        yield Finding(
            "M10", "error", "Softmax over a single output is always 1: cross-entropy has nothing to say", culprit,
            (f"outputs {tuple(logits.shape)}", "the loss has its softmax inside"), "Two outputs, or BCEWithLogitsLoss.",
        )
    elif target.ndim == 1 and not target.is_floating_point():
        labels = int(target.max()) + 1
        if (labels / outputs) ** len(target) < CHANCE:
            yield Finding(
                "M10", "warning", f"The network has {outputs} outputs, and no image of the batch has a label above {labels - 1}", culprit,
                (f"outputs {tuple(logits.shape)}, targets {sorted(set(target.tolist()))}",),
                f"If there are {labels} labels: as many outputs.",
            )


def _last(patient: Patient) -> _Last:
    """Follow the outputs back to the operation that made their values."""
    modules: list[str] = []
    kept = Operations(eager(patient.model), lambda result, _: result)
    handles = [
        module.register_forward_hook(lambda *_, path=path: modules.append(path))
        for path, module in eager(patient.model).named_modules() if not any(True for _ in module.children())
    ]
    try:
        with torch.no_grad(), kept:
            outputs = patient.model(patient.batch[0])
    finally:
        for handle in handles:
            handle.remove()
    network = eager(patient.model)
    with_weights = [path for path in modules if any(True for _ in network.get_submodule(path).parameters(recurse=False))]
    logits = logits_of(outputs)
    made = [one for one in kept.all if logits is not None and _is_made_of(logits, one.kept)]
    activations = [one for one in made if one.name in {*SQUASHING, *BENDING}]  # in place they come behind what made the memory
    return _Last(outputs, (*activations[-1:], *made[:1], None)[0], with_weights[-1] if with_weights else "")


def _is_made_of(logits: Tensor, result: Tensor) -> bool:
    """Whether two tensors are views of the same numbers."""
    return result.numel() == logits.numel() and result.data_ptr() == logits.data_ptr()


def _range(patient: Patient, last: _Last) -> str | None:
    """softmax, log_softmax, sigmoid or bounded, by what the outputs are at other and much larger last weights; None: without bounds."""
    inputs, _ = patient.batch
    layer = eager(patient.model).get_submodule(last.module)
    start = {name: weight.detach().clone() for name, weight in layer.named_parameters(recurse=False)}
    settle(patient.model, inputs)
    possible, largest = {"softmax", "log_softmax", "sigmoid", "bounded"}, 1.0
    for draw in range(DRAWS):
        generator = torch.Generator().manual_seed(draw)
        with torch.no_grad(), mode(patient.model, training=False):
            for name, weight in layer.named_parameters(recurse=False):
                noise = torch.randn(weight.shape, generator=generator).to(weight)
                weight.copy_((start[name] + noise * (start[name].square().mean().sqrt() + ABSOLUTE)) * (LOUD / largest if draw else 1.0))
            seeded(draw)
            logits = logits_of(patient.model(inputs))
            for name, weight in layer.named_parameters(recurse=False):
                weight.copy_(start[name])
        if logits is None or not (possible := possible & _ranges(logits.float())):
            return None
        largest = largest if draw else max(float(logits.abs().max()), 1e-3)
    return next(name for name in ("softmax", "log_softmax", "sigmoid", "bounded") if name in possible)


def _ranges(logits: Tensor) -> set[str]:
    if not bool(logits.isfinite().all()) and not bool((logits == -math.inf).any()):
        return set()
    is_table = logits.ndim == 2 and logits.shape[1] > 1
    found = set()
    if bool(((logits >= -1) & (logits <= 1)).all()):
        found.add("bounded")
    if bool(((logits >= 0) & (logits <= 1)).all()):
        found.add("sigmoid")
        if is_table and bool((logits.sum(dim=1) - 1).abs().max() < 1e-4):
            found.add("softmax")
    if is_table and bool((logits <= 1e-6).all()) and bool(logits.logsumexp(dim=1).abs().max() < 1e-3):
        found.add("log_softmax")
    return found


def _activation(patient: Patient, shape: str | None, kind: str | None, last: _Last) -> Iterator[Finding]:
    """What the outputs are against what the loss takes. Two witnesses: the range they keep, and the operation that makes them."""
    written = last.operation.name if last.operation is not None else ""
    said = {"softmax": "probabilities", "sigmoid": "probabilities", "log_softmax": "log-probabilities", "bounded": "numbers from -1 to 1"}
    wanted = WANTED.get(kind or "")
    culprit = _culprit(patient, last)
    if shape is None and wanted == "log-probabilities":
        yield _mismatch(
            culprit, "logits", wanted, ("exp of the outputs of an image does not sum to 1", f"the loss takes {wanted} ({kind})"),
        )
    elif shape is not None and wanted is not None and said[shape] != wanted and not (shape == "log_softmax" and kind == "cross_entropy"):
        is_written = SQUASHING.get(written) == shape
        lost = loss_lost(patient, shape) if wanted == "logits" else None
        if lost is not None and lost < LEAST:  # a loss that makes it good again, by a temperature or a logarithm
            return
        evidence = (
            f"the outputs stay {said[shape]} when the last weights are made larger",
            f"the operation that makes them: {written}" if written else "the operation that makes them is not known",
            f"the loss takes {wanted} ({kind}){f', and with these it cannot fall below {lost:.2f}' if lost is not None else ''}",
        )
        # Without the operation, what sums to one and loves no scale is a softmax written by hand; a mere bound may be chance.
        is_certain = is_written or shape == "softmax"
        yield _mismatch(culprit, f"{said[shape]} ({shape})" if is_certain else "bounded numbers", wanted, evidence, is_certain=is_certain)
    elif shape is None and wanted == "logits" and written in BENDING:
        yield Finding(
            "M10", "warning", f"The outputs go through {written}: nothing below zero can be said", culprit, (f"the loss takes {wanted}",),
            "Return what the last linear layer gives.",
        )


def _mismatch(culprit: Culprit, outputs: str, wanted: str, evidence: tuple[str, ...], *, is_certain: bool = True) -> Finding:
    remedy = "Return the logits: the loss has its own softmax or sigmoid."
    return Finding(
        "M10", "error" if is_certain else "warning", f"The network returns {outputs}, and the loss takes {wanted}", culprit, evidence,
        remedy if wanted == "logits" else f"Return {wanted}, or take the loss of logits.",
    )


def _start(patient: Patient, logits: Tensor, last: _Last) -> Iterator[Finding]:
    """A first loss far above that of knowing nothing; not of weights that have been somewhere else."""
    target = patient.batch[1]
    if patient.intent.pretrained is not None or logits.ndim != 2 or logits.shape[1] < 2:
        return
    index = patient.intent.ignore_index if patient.intent.ignore_index is not None else -100
    try:
        loss = float(functional.cross_entropy(logits.detach().float(), target, ignore_index=index))
    except (RuntimeError, IndexError, ValueError):
        return
    knowing_nothing = math.log(logits.shape[1])
    if loss > FAR * knowing_nothing:
        yield Finding(
            "M10", "warning", f"The first loss is {loss:.2f}, of a network that knows nothing {knowing_nothing:.2f}",
            _culprit(patient, last), (f"outputs from {float(logits.detach().min()):.1f} to {float(logits.detach().max()):.1f}",),
            "Begin with a smaller last layer, or look at the scale of the inputs.",
        )


def _culprit(patient: Patient, last: _Last) -> Culprit:
    network = eager(patient.model)
    name = f"{last.module} ({type(network.get_submodule(last.module)).__name__})" if last.module else type(network).__name__
    place = last.operation.place if last.operation is not None else None
    if last.operation is not None and last.operation.name in {*SQUASHING, *BENDING}:
        name = f"{last.operation.name} behind {name}"
    return Culprit(name, str(place) if place is not None else None)


EXAMINATIONS: tuple[Examination, ...] = (head,)
