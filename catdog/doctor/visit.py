"""visit: all examinations of a patient, in order, within a budget of seconds. The patient leaves as it came."""

import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from catdog.doctor.examination import CannotTell, Examination
from catdog.doctor.findings import Culprit, Finding, Report
from catdog.doctor.patient import PROBE, Patient, logits_of, tensors_in
from catdog.doctor.snapshot import Snapshot, digest

LARGE = 100_000_000
"""Parameters. Of larger networks only what M01 to M05 and L01 to L05 ask is asked."""


def visit(patient: Patient, examinations: Sequence[Examination], *, budget: float) -> Report:
    """Make the examinations that apply, in their order, until `budget` seconds are over.

    Every one of them begins with the patient as it came. An examination that fails is a warning: it says nothing of the patient.
    """
    began = time.monotonic()
    before, snapshot = digest(patient), Snapshot.of(patient)
    findings: list[Finding] = []
    passed: list[str] = []
    not_run: dict[str, str] = {}

    patient = replace(patient, batch=probe(patient), findings=findings, kept={})
    if (trouble := _trial(patient)) is not None:
        findings.append(trouble)
    snapshot.restore()
    is_large = sum(parameter.numel() for parameter in patient.model.parameters()) > LARGE
    for examination in examinations:
        missing = [name for name in examination.needs if getattr(patient, name) is None]
        if trouble is not None and examination.code[0] in "ML":
            not_run[examination.code] = "no forward and backward pass"
        elif missing:
            not_run[examination.code] = f"no {' and no '.join(missing)}"
        elif is_large and not examination.of_large:
            not_run[examination.code] = f"more than {LARGE:,} parameters"
        elif time.monotonic() - began + examination.passes * patient.seconds_per_pass > budget:
            not_run[examination.code] = "budget"
        else:
            try:
                found = list(examination.run(patient))
                findings += found
                passed += [] if found else [examination.code]
            except CannotTell as reason:
                not_run[examination.code] = str(reason)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the doctor's, and the run goes on
                findings.append(_own_failure(examination.code, f"{examination.name} could not be made", error))
            snapshot.restore()
    if digest(patient) != before:
        findings.append(_own_failure("S00", "an examination changed the patient", None))
    return Report(tuple(findings), tuple(passed), not_run, time.monotonic() - began)


def probe(patient: Patient) -> tuple[Tensor, Tensor]:
    """At most PROBE images of the batch, of as many labels as there are in it, in turn."""
    inputs, target = patient.batch
    if len(inputs) <= PROBE:
        return inputs, target
    seen: dict[object, int] = {}
    turns = []
    for position, label in enumerate(target.tolist()):
        key = tuple(label) if isinstance(label, list) else label
        seen[key] = seen.get(key, -1) + 1
        turns.append((seen[key], position))
    chosen = torch.tensor(sorted(position for _, position in sorted(turns)[:PROBE]), device=target.device)
    return inputs[chosen.to(inputs.device)], target[chosen]


def _trial(patient: Patient) -> Finding | None:
    """Whether the network takes the batch, the loss takes what it returns, and the gradient comes back; and how long it takes."""
    inputs, target = patient.batch
    began = time.monotonic()
    try:
        outputs = patient.model(inputs)
    except Exception as error:  # noqa: BLE001 - whatever somebody's network raises
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
    if patient.loss is None:
        return None
    try:
        loss = patient.loss(outputs, target)
        if isinstance(loss, Tensor) and loss.requires_grad:
            torch.autograd.backward(loss)
    except Exception as error:  # noqa: BLE001 - whatever somebody's network raises
        if not isinstance(outputs, Tensor):
            names = [f"{type(one).__name__} {tuple(one.shape)}" for one in tensors_in(outputs)]
            return _trouble(
                patient, f"forward returns a {type(outputs).__name__} of {', '.join(names) or 'no tensor'}, and the loss cannot take it",
                error, "Return the logits alone, or give a loss that picks them: loss=lambda out, target: criterion(out[0], target).",
            )
        return _trouble(
            patient, f"the loss cannot take outputs of shape {tuple(outputs.shape)} with a target of shape {tuple(target.shape)}, "
            f"{target.dtype}", error, "One output for each label, and a target as the loss wants it.",
        )
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        return _trouble(patient, f"the loss is not one number: {got}", None, "Return the mean over the batch.")
    patient.seconds_per_pass = time.monotonic() - began
    if logits_of(outputs) is None:
        return _trouble(patient, f"forward returns a {type(outputs).__name__} without a tensor", None, "Return the logits.")
    return None


def _trouble(patient: Patient, message: str, error: Exception | None, remedy: str) -> Finding:
    evidence = (f"{type(error).__name__}: {error}"[:500],) if error is not None else ()
    return Finding("M10", "error", message[:1].upper() + message[1:], Culprit(type(patient.model).__name__), evidence, remedy)


def _own_failure(code: str, message: str, error: Exception | None) -> Finding:
    evidence = (f"{type(error).__name__}: {error}"[:500],) if error is not None else ()
    return Finding(
        code, "warning", f"The doctor's own failure: {message}", Culprit("catdog.doctor"), evidence,
        "Report it: it says nothing about the network, and the run goes on.",
    )
