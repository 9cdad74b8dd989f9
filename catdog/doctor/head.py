"""M10 head: the number of outputs, what the last layer does to them, and where the loss begins. N images, C labels."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from catdog.doctor.examination import CannotTell, Examination, examination
from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.operations import Operation, Operations
from catdog.doctor.patient import Patient, logits_of
from catdog.doctor.redraw import Weights, mode, seeded, settle, unwrapped

DRAWS = 4
"""Weights at which outputs must keep within their bounds."""
LOUD = 1000.0
"""Factor on the last weights: outputs without an activation grow as much."""
FAR = 3.0
"""Times ln C from which on a first loss is far from knowing nothing (Karpathy 2019, https://karpathy.github.io/2019/04/25/recipe/)."""
CHANCE = 0.05
"""Of a batch that shows no image of the labels that the network has outputs for, if all were equally frequent."""
SQUASHING = {
    "softmax": "softmax", "log_softmax": "log_softmax", "sigmoid": "sigmoid", "sigmoid_": "sigmoid", "hardsigmoid": "sigmoid",
    "tanh": "tanh", "tanh_": "tanh", "hardtanh": "tanh",
}
"""torch's functions by the range they keep."""
BENDING = frozenset({"relu", "relu_", "relu6", "gelu", "silu", "elu", "softplus", "hardswish", "mish"})
"""Activations without an upper bound: nothing negative, or hardly, can be said after them."""
WANTED = {"cross_entropy": "logits", "bce_with_logits": "logits", "bce": "probabilities", "nll": "log-probabilities"}
"""What a loss takes."""


@examination("M10", "head", catches="a wrong number of outputs, softmax or sigmoid before cross-entropy", passes=DRAWS + 3)
def head(patient: Patient) -> Iterator[Finding]:
    """Errors: an output without a label, or the reverse; a range, measured and in the code, that the loss does not take."""
    outputs = patient.model(patient.batch[0])
    logits = logits_of(outputs)
    if logits is None or not logits.is_floating_point() or logits.ndim == 0:
        raise CannotTell("no logits")
    kind = _loss_kind(patient, outputs)
    yield from _number(patient, logits, kind)
    last = _last(patient)
    shape = _range(patient, last)
    yield from _activation(patient, shape, kind, last)
    if kind == "cross_entropy" and shape is None:
        yield from _start(patient, logits)


@dataclass(frozen=True, slots=True)
class _Last:
    """Where the outputs are made."""

    operation: Operation | None
    """The last one, but for those that only view its result."""
    module: str
    """The path of the last module with weights that was called; empty: the network itself."""


def _loss_kind(patient: Patient, outputs: object) -> str | None:
    """What the loss takes, by its type, else by what it does, else as declared."""
    loss = patient.loss
    for known, name in (
        (nn.CrossEntropyLoss, "cross_entropy"), (nn.BCEWithLogitsLoss, "bce_with_logits"), (nn.BCELoss, "bce"), (nn.NLLLoss, "nll"),
    ):
        if isinstance(loss, known):
            return name
    for function, name in (
        (functional.cross_entropy, "cross_entropy"), (functional.binary_cross_entropy_with_logits, "bce_with_logits"),
        (functional.binary_cross_entropy, "bce"), (functional.nll_loss, "nll"),
    ):
        if loss is function:
            return name
    if loss is None or not isinstance(outputs, Tensor):
        return patient.intent.loss
    if _has_own_softmax(patient, outputs):
        return "cross_entropy"
    return "nll" if patient.intent.loss == "cross_entropy" and _is_linear(patient, outputs) else patient.intent.loss


def _has_own_softmax(patient: Patient, outputs: Tensor) -> bool:
    """Whether adding a number to all outputs of an image changes nothing, while other outputs do: softmax alone is so."""
    if outputs.ndim != 2 or outputs.shape[1] < 2:
        return False
    said = _asked(patient, outputs, lambda drawn: drawn, lambda drawn: drawn + 3 * torch.arange(1, len(drawn) + 1).to(drawn)[:, None])
    return said is not None and abs(said[0] - said[1]) <= 1e-4 * (1 + abs(said[0]))


def _is_linear(patient: Patient, outputs: Tensor) -> bool:
    """Whether twice the outputs are twice the loss."""
    said = _asked(patient, outputs, lambda drawn: drawn, lambda drawn: 2 * drawn)
    return said is not None and abs(2 * said[0] - said[1]) <= 1e-4 * (1 + abs(said[1]))


def _asked(patient: Patient, outputs: Tensor, one: object, other: object) -> tuple[float, float] | None:
    """The loss of outputs at random, changed in two ways; None where it cannot say, or says the same of everything."""
    generator = torch.Generator().manual_seed(0)
    drawn, unlike = (torch.randn(outputs.shape, generator=generator).to(outputs) for _ in range(2))
    if patient.loss is None or not callable(one) or not callable(other):
        return None
    try:
        with torch.no_grad():
            first, second, third = (float(patient.loss(value, patient.batch[1])) for value in (one(drawn), other(drawn), unlike))
    except Exception:  # noqa: BLE001 - a loss that refuses numbers at random
        return None
    return (first, second) if all(map(math.isfinite, (first, second, third))) and first != third else None


def _number(patient: Patient, logits: Tensor, kind: str | None) -> Iterator[Finding]:
    """One output for each label; or a single one where the loss asks yes or no."""
    target = patient.batch[1]
    outputs = 1 if logits.ndim == 1 else logits.shape[1]
    if logits.ndim > 2 or (outputs == 1 and kind != "cross_entropy"):
        return
    culprit = _culprit(patient, _last(patient))
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
    kept = Operations(lambda result, _: result)
    handles = [
        module.register_forward_hook(lambda *_, path=path: modules.append(path))
        for path, module in unwrapped(patient.model).named_modules() if not any(True for _ in module.children())
    ]
    try:
        with torch.no_grad(), kept:
            logits = logits_of(patient.model(patient.batch[0]))
    finally:
        for handle in handles:
            handle.remove()
    network = unwrapped(patient.model)
    with_weights = [path for path in modules if any(True for _ in network.get_submodule(path).parameters(recurse=False))]
    made = [one for one in kept.all if logits is not None and _is_made_of(logits, one.kept)]
    return _Last(made[0] if made else None, with_weights[-1] if with_weights else "")


def _is_made_of(logits: Tensor, result: Tensor) -> bool:
    """Whether two tensors are views of the same numbers."""
    return result.numel() == logits.numel() and result.data_ptr() == logits.data_ptr()


def _range(patient: Patient, last: _Last) -> str | None:
    """softmax, log_softmax, sigmoid or tanh, by what the outputs are at other, and at much larger, weights; None: without bounds."""
    network, (inputs, _) = unwrapped(patient.model), patient.batch
    weights = Weights(network)
    possible = {"softmax", "log_softmax", "sigmoid", "tanh"}
    for draw in range(DRAWS):
        weights.draw(draw)
        settle(patient.model, inputs)
        with torch.no_grad(), mode(patient.model, training=False):
            if draw:
                for weight in network.get_submodule(last.module).parameters(recurse=False):
                    weight.mul_(LOUD)
            seeded(draw)
            logits = logits_of(patient.model(inputs))
        if logits is None:
            return None
        possible &= _ranges(logits.float())
    weights.back()
    return next((name for name in ("softmax", "log_softmax", "sigmoid", "tanh") if name in possible), None)


def _ranges(logits: Tensor) -> set[str]:
    if not bool(logits.isfinite().all()) and not bool((logits == -math.inf).any()):
        return set()
    is_table = logits.ndim == 2 and logits.shape[1] > 1
    found = set()
    if bool(((logits >= -1) & (logits <= 1)).all()):
        found.add("tanh")
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
    said = {"softmax": "probabilities", "sigmoid": "probabilities", "log_softmax": "log-probabilities", "tanh": "numbers from -1 to 1"}
    wanted = WANTED.get(kind or "")
    culprit = _culprit(patient, last)
    if shape is None and wanted == "log-probabilities":
        yield _mismatch(
            culprit, "logits", wanted, ("exp of the outputs of an image does not sum to 1", f"the loss takes {wanted} ({kind})"),
        )
    elif shape is not None and wanted is not None and said[shape] != wanted and not (shape == "log_softmax" and kind == "cross_entropy"):
        is_written = SQUASHING.get(written) == shape
        evidence = (
            f"the outputs stay {said[shape]} with the last weights times {LOUD:g}",
            f"the operation that makes them: {written}" if written else "the operation that makes them is not known",
            f"the loss takes {wanted} ({kind})",
        )
        # Without the operation, what sums to one and loves no scale is a softmax written by hand; a mere bound may be chance.
        yield _mismatch(culprit, f"{said[shape]} ({shape})", wanted, evidence, is_certain=is_written or shape == "softmax")
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


def _start(patient: Patient, logits: Tensor) -> Iterator[Finding]:
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
            _culprit(patient, _last(patient)), (f"outputs from {float(logits.min()):.1f} to {float(logits.max()):.1f}",),
            "Begin with a smaller last layer, or look at the scale of the inputs.",
        )


def _culprit(patient: Patient, last: _Last) -> Culprit:
    network = unwrapped(patient.model)
    name = f"{last.module} ({type(network.get_submodule(last.module)).__name__})" if last.module else type(network).__name__
    place = last.operation.place if last.operation is not None else None
    if last.operation is not None and last.operation.name in {*SQUASHING, *BENDING}:
        name = f"{last.operation.name} behind {name}"
    return Culprit(name, str(place) if place is not None else None)


EXAMINATIONS: tuple[Examination, ...] = (head,)
