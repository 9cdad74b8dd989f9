"""clean_loss: the plain loss of a classifier on its raw logits, whatever the owner's loop does with them."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from catdog.doctor.loss.hearing import Hearing, raw
from catdog.doctor.patient import Batch, Patient, logits_of


def clean_loss(patient: Patient, batch: Batch | None = None) -> Callable[[], Tensor]:
    """What, called, makes a forward pass of the batch in the network's present mode and returns the mean loss over its images.

    Cross-entropy where there is an output for each label, binary cross-entropy where there is one output; both of what stands before a last
    sigmoid or softmax. Of other networks and targets it is the owner's own loss.
    """
    inputs, target = batch or patient.batch

    def loss() -> Tensor:
        hearing = Hearing()
        with hearing:
            outputs = patient.model(inputs)
        logits = logits_of(outputs)
        if logits is not None and not target.is_floating_point() and target.ndim == 1:
            if logits.ndim == 2 and 1 < logits.shape[1] > int(target.max()):
                return functional.cross_entropy(raw(hearing, logits).float(), target.long())
            if logits.numel() == len(target) and int(target.max()) <= 1:
                return functional.binary_cross_entropy_with_logits(raw(hearing, logits).flatten().float(), target.float())
        if patient.loss is None:
            raise ValueError("Expected a patient with a loss, or with labels as target.")
        return patient.loss(outputs, target).mean()

    return loss


def is_right(patient: Patient, batch: Batch) -> float | None:
    """The share of the batch whose largest output is its label's, in the network's present mode; None where outputs are no labels."""
    inputs, target = batch
    with torch.no_grad():
        logits = logits_of(patient.model(inputs))
    if logits is None or target.is_floating_point() or target.ndim != 1 or logits.ndim != 2 or logits.shape[1] < 2:
        return None
    return float((logits.argmax(dim=1) == target).float().mean())
