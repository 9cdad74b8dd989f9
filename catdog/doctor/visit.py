"""visit: all examinations of a patient, in order, within a budget of seconds. The patient leaves as it came."""

import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from catdog.doctor.examination import CannotTell, Examination
from catdog.doctor.findings import Culprit, Finding, Report
from catdog.doctor.patient import ANY_ERROR, PROBE, Patient
from catdog.doctor.snapshot import Snapshot, digest
from catdog.doctor.trial import trial

LARGE = 100_000_000
"""Parameters. Of larger networks only what M01 to M05 and L01 to L05 ask is asked."""

COLD = 1.0
"""Seconds. A shorter pass is timed a second time: the first one of a process looks for its kernels."""


def visit(patient: Patient, examinations: Sequence[Examination], *, budget: float) -> Report:
    """Make the examinations that apply, in their order, until `budget` seconds are over.

    Every one of them begins with the patient as it came, and it leaves as it came, even if it is interrupted. An examination that fails
    is a warning: it says nothing of the patient.
    """
    began = time.monotonic()
    try:
        before, snapshot = digest(patient), Snapshot.of(patient)
    except ANY_ERROR as error:  # whatever somebody's own kind of tensor or module does
        nothing = dict.fromkeys((examination.code for examination in examinations), "its state cannot be kept")
        return Report((_own_failure("S00", "the state of this patient cannot be kept", error),), (), nothing, time.monotonic() - began)
    try:
        with _eager():
            report = _examined(replace(patient, batch=probe(patient), patience=budget / 3, known={}), examinations, deadline=began + budget)
    except ANY_ERROR as error:  # inputs and targets of a kind that nobody here has thought of
        nothing = dict.fromkeys((examination.code for examination in examinations), "the doctor's own failure")
        report = Report((_own_failure("S00", "this patient cannot be examined", error),), (), nothing)
    finally:
        snapshot.restore()
    if digest(patient) != before:
        report += Report((_own_failure("S00", "an examination changed the patient", None),))
    return replace(report, seconds=time.monotonic() - began)


def _eager() -> AbstractContextManager[Any]:
    """What somebody has compiled runs as it was written: the same arithmetic, which hooks can watch and nobody has to wait for."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def _examined(patient: Patient, examinations: Sequence[Examination], *, deadline: float) -> Report:
    findings: list[Finding] = []
    passed: list[str] = []
    not_run: dict[str, str] = {}
    patient.findings, snapshot = findings, Snapshot.of(patient)
    if (trouble := _tried(patient)) is not None:
        findings.append(trouble)
    snapshot.restore()
    if trouble is None and any(map(is_lazy, (*patient.model.parameters(), *patient.model.buffers()))):
        patient.model(patient.batch[0])  # for as long as the visit lasts, it is what it will be
        snapshot = Snapshot.of(patient)
    for examination in examinations:
        if (obstacle := _obstacle(examination, patient, has_trouble=trouble is not None, deadline=deadline)) is not None:
            not_run[examination.code] = obstacle
        else:
            try:
                found = list(examination.run(patient))
                findings += found
                passed += [] if found else [examination.code]
            except CannotTell as reason:
                not_run[examination.code] = str(reason)
            except ANY_ERROR as error:  # whatever it is, it is the doctor's, and the run goes on
                findings.append(_own_failure(examination.code, f"{examination.name} could not be made", error))
            snapshot.restore()
    return Report(tuple(findings), tuple(passed), not_run)


def _obstacle(examination: Examination, patient: Patient, *, has_trouble: bool, deadline: float) -> str | None:
    """Why an examination is not made; None: it is."""
    missing = [name for name in examination.needs if getattr(patient, name) is None]
    if missing:
        return f"no {' and no '.join(missing)}"
    if has_trouble and examination.code[0] in "ML":
        return "no forward and backward pass"
    if examination.code[0] == "M" and any(isinstance(module, torch.jit.ScriptModule) for module in patient.model.modules()):
        return "TorchScript: nobody can watch what its parts do"
    parameters = [parameter for parameter in patient.model.parameters() if not is_lazy(parameter)]
    if not examination.of_large and sum(parameter.numel() for parameter in parameters) > LARGE:
        return f"more than {LARGE:,} parameters"
    if time.monotonic() + examination.passes * patient.seconds_per_pass > deadline:
        return "budget"
    return None


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


def _tried(patient: Patient) -> Finding | None:
    trouble = trial(patient)
    if trouble is None and patient.seconds_per_pass < COLD:
        trial(patient)
    return trouble


def _own_failure(code: str, message: str, error: BaseException | None) -> Finding:
    evidence = (f"{type(error).__name__}: {error}"[:500],) if error is not None else ()
    return Finding(
        code, "warning", f"The doctor's own failure: {message}", Culprit("catdog.doctor"), evidence,
        "Report it: it says nothing about the network, and the run goes on.",
    )
