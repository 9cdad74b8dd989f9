"""trial: whether there is anything to examine. One forward and backward pass, or what is in its way."""

import time
from typing import Any

import torch
from torch import Tensor

from catdog.device import is_out_of_memory
from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.patient import ANY_ERROR, Patient, logits_of, tensors_in
from catdog.doctor.tape import recording


def trial(patient: Patient) -> Finding | None:
    """Whether the network takes the batch, the loss takes what it returns, and the gradient comes back; notes how long that takes."""
    began = time.monotonic()
    try:
        outputs = patient.model(patient.batch[0])
    except ANY_ERROR as error:  # whatever somebody's network raises
        _if_theirs(error)
        return _of_forward(patient, error)
    if logits_of(outputs) is None:
        return _trouble(patient, f"forward returns a {type(outputs).__name__} without a tensor", None, "Return the logits.")
    if patient.loss is None:
        return None
    if patient.step is not None and patient.optimizer is not None:  # it knows what to do with what the network returns
        try:
            with recording(patient):  # which puts back what only the step knows
                patient.train_step()
        except ANY_ERROR as error:  # whatever somebody's loop raises
            _if_theirs(error)
            return _trouble(patient, "the training step fails", error, "It is called as step(model, (inputs, target), loss, optimizer).")
    elif (trouble := _of_loss(patient, outputs)) is not None:
        return trouble
    patient.seconds_per_pass = time.monotonic() - began
    return None


def _if_theirs(error: BaseException) -> None:
    """Let pass what says nothing about a network: want of memory, a GPU that has gone."""
    if isinstance(error, (MemoryError, torch.AcceleratorError)) or is_out_of_memory(error):
        raise error


def _of_forward(patient: Patient, error: BaseException) -> Finding:
    inputs: Any = patient.batch[0]  # whatever anyone hands over
    if not isinstance(inputs, Tensor):
        return _trouble(patient, f"the network cannot take a {type(inputs).__name__}", error, "Give it what its forward takes.")
    there = {str(tensor.device) for tensor in patient.model.parameters()}
    if there and str(inputs.device) not in there:
        return _trouble(
            patient, f"the batch is on {inputs.device}, the network on {', '.join(sorted(there))}", error,
            "Move the inputs to the network's device: inputs.to(device).",
        )
    return _trouble(
        patient, f"the network cannot take a batch of shape {tuple(inputs.shape)}, {inputs.dtype}", error,
        "Give it inputs of the shape and dtype that it is made for.",
    )


def _of_loss(patient: Patient, outputs: Any) -> Finding | None:
    target = patient.batch[1]
    try:
        loss = patient.loss(outputs, target) if patient.loss is not None else None
        if isinstance(loss, Tensor) and loss.numel() == 1 and loss.requires_grad:
            torch.autograd.backward(loss)
    except ANY_ERROR as error:  # whatever somebody's loss raises
        _if_theirs(error)
        if not isinstance(outputs, Tensor):
            names = ", ".join(f"{type(one).__name__} {tuple(one.shape)}" for one in tensors_in(outputs))
            return _trouble(
                patient, f"forward returns a {type(outputs).__name__} of {names}, and the loss cannot take it", error,
                "Return the logits alone, or give a loss that picks them: loss=lambda out, target: criterion(out[0], target).",
            )
        shapes = f"outputs of shape {tuple(outputs.shape)} with a target of shape {tuple(target.shape)}, {target.dtype}"
        return _trouble(patient, f"the loss cannot take {shapes}", error, "One output for each label, and a target as the loss wants it.")
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        return _trouble(patient, f"the loss is not one number: {got}", None, "Return the mean over the batch.")
    return None


def _trouble(patient: Patient, message: str, error: BaseException | None, remedy: str) -> Finding:
    evidence = (f"{type(error).__name__}: {error}"[:500],) if error is not None else ()
    return Finding("M10", "error", message[:1].upper() + message[1:], Culprit(type(patient.model).__name__), evidence, remedy)
