"""EXAMINERS: who looks at a host, by name. Each is told the host's folder and returns its part of a row: `findings`, and what it knows.

A finding is {code, severity, message, what, where}, the severity ours: an error refuses the run.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from catdog.doctor.catalogue import EXAMINATIONS
from catdog.doctor.visit import visit
from tests.mutations import baselines, proof
from tests.mutations.patients import patient_of

BUDGET = 60.0
"""Seconds of a visit: twice what the doctor allows itself, for machines that do something else at the same time."""


def doctor(folder: Path) -> dict[str, Any]:
    """Ours."""
    report = visit(patient_of(folder), EXAMINATIONS, budget=BUDGET)
    findings = [
        {"code": one.code, "severity": one.severity, "message": one.message, "what": one.culprit.what, "where": one.culprit.where}
        for one in sorted(report.findings, key=lambda one: ("error", "warning", "info").index(one.severity))
    ]
    return {"findings": findings, "not_run": dict(report.not_run), "visit": round(report.seconds, 2)}


EXAMINERS: Mapping[str, Callable[[Path], dict[str, Any]]] = {"doctor": doctor, "proof": proof.observe, **baselines.BASELINES}
