"""WANTED, loss_kind, loss_lost: what a loss takes, by its type and by what it does to numbers at random."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from catdog.doctor.patient import ANY_ERROR, Patient

WANTED = {"cross_entropy": "logits", "bce_with_logits": "logits", "bce": "probabilities", "nll": "log-probabilities"}
"""What a loss takes."""
FREE = 20.0
"""An output as large as one without bounds becomes."""


def loss_kind(patient: Patient, outputs: object) -> str | None:
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
    if patient.intent.loss in ("cross_entropy", "nll"):
        return "nll" if _is_linear(patient, outputs) else None
    return patient.intent.loss


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


def _asked(
    patient: Patient, outputs: Tensor, one: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor],
) -> tuple[float, float] | None:
    """The loss of outputs at random, changed in two ways; None where it cannot say, or says the same of everything."""
    generator = torch.Generator().manual_seed(0)
    drawn, unlike = (torch.randn(outputs.shape, generator=generator).to(outputs) for _ in range(2))
    if patient.loss is None:
        return None
    try:
        with torch.no_grad():
            first, second, third = (float(patient.loss(value, patient.batch[1])) for value in (one(drawn), other(drawn), unlike))
    except ANY_ERROR:  # a loss that refuses numbers at random
        return None
    return (first, second) if all(map(math.isfinite, (first, second, third))) and first != third else None


def loss_lost(patient: Patient, shape: str) -> float | None:
    """How much more the loss is at the best outputs of that range than at the best without bounds; None where it cannot be asked."""
    inputs, target = patient.batch
    with torch.no_grad():
        outputs = patient.model(inputs)
    if patient.loss is None or not isinstance(outputs, Tensor):
        return None
    if target.is_floating_point() and target.numel() == outputs.numel():
        best = target.reshape(outputs.shape) >= 0.5
    elif target.ndim == 1 and outputs.ndim == 2 and outputs.shape[1] > 1:
        best = functional.one_hot(target.long(), outputs.shape[1]).bool()
    else:
        return None
    lowest = -1.0 if shape == "bounded" else 0.0
    try:
        within, without = (
            float(patient.loss(torch.where(best, high, low).to(outputs), target)) for low, high in ((lowest, 1.0), (-FREE, FREE))
        )
    except ANY_ERROR:  # a loss that refuses numbers out of its range
        return None
    return within - without
