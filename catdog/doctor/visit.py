"""visit: all examinations of a patient, in order, within a budget of seconds. The patient leaves as it came."""

import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from catdog.doctor.examination import CannotTell, Examination
from catdog.doctor.findings import Culprit, Finding, Report
from catdog.doctor.patient import PROBE, Patient
from catdog.doctor.snapshot import Snapshot, digest
from catdog.doctor.trial import trial

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

    patient = replace(patient, batch=probe(patient), known={})
    if (trouble := trial(patient)) is not None:
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


def _own_failure(code: str, message: str, error: Exception | None) -> Finding:
    evidence = (f"{type(error).__name__}: {error}"[:500],) if error is not None else ()
    return Finding(
        code, "warning", f"The doctor's own failure: {message}", Culprit("catdog.doctor"), evidence,
        "Report it: it says nothing about the network, and the run goes on.",
    )
