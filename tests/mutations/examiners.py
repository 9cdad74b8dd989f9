"""EXAMINERS: who looks at a host, by name: (the host's folder, seconds it has) -> its part of a row: `findings`, and what else it knows.

A finding is {code, severity, message, what, where}, the severity ours: an error refuses the run.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from catdog.doctor.catalogue import EXAMINATIONS
from catdog.doctor.visit import visit
from tests.mutations import baselines, proof
from tests.mutations.patients import patient_of


def doctor(folder: Path, budget: float) -> dict[str, Any]:
    """Ours."""
    report = visit(patient_of(folder), EXAMINATIONS, budget=budget)
    findings = [
        {"code": one.code, "severity": one.severity, "message": one.message, "what": one.culprit.what, "where": one.culprit.where}
        for one in sorted(report.findings, key=lambda one: ("error", "warning", "info").index(one.severity))
    ]
    return {"findings": findings, "not_run": dict(report.not_run), "visit": round(report.seconds, 2)}


EXAMINERS: Mapping[str, baselines.Examiner] = {"doctor": doctor, "proof": proof.observe, **baselines.BASELINES}
