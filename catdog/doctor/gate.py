"""examining, look, visited, packaged, amend, said, summary, refuse, verdict: what the doctor has to do with a run, and its doctor.json.

    examining    network, loop and data, before anything is computed that takes long
    training     guards.py and attendance.py
    testing      the best epoch's file repeats what was measured
    packaging    what will be served answers as what was trained

A run in which something is certainly wrong ends here, where its config says `doctor: gate`. What the doctor fails at itself is a warning.
"""

import json
import re
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from catdog import device
from catdog.config import TrainConfig
from catdog.doctor import patients
from catdog.doctor.catalogue import EXAMINATIONS
from catdog.doctor.consultation import BUDGET
from catdog.doctor.examination import Examination
from catdog.doctor.findings import REPORT, Culprit, Finding, Report
from catdog.doctor.patient import ANY_ERROR, Patient
from catdog.doctor.visit import visit
from catdog.errors import Unhealthy
from catdog.files import write_atomically
from catdog.inference import Predictor
from catdog.progress import Progress, fits

if TYPE_CHECKING:
    from catdog.run import Prepared

BUDGET_OF_DEFAULT = 10.0
"""Seconds, on 2 cores, of a run that trains the default network's head; any other has BUDGET."""
SERVING_BUDGET = 10.0
PREFLIGHT = frozenset(one.code for one in EXAMINATIONS if one.code[0] in "MLD")
"""What is examined before a run begins. A report that says nothing of it is one of guards."""
LONGEST = 1500
"""Letters of the errors in a failure's message; doctor.json has them whole."""


def examining(prepared: "Prepared") -> Iterator[Progress]:
    """The phase `examining`. An earlier attempt's whole examination is not repeated, unless it was the end of that attempt.

    Raises:
        Unhealthy: something is certainly wrong, and the config says gate.
    """
    folder, config = prepared.folder, prepared.config
    if config.doctor == "off":
        amend(folder, Report(not_run={one.code: "doctor=off" for one in EXAMINATIONS}))
        return
    before = Report.read(folder)
    if before is not None and before.codes >= PREFLIGHT and (before.is_healthy or config.doctor == "warn"):
        return
    report = look(prepared)
    yield from said(report, phase="examining")
    amend(folder, report)
    yield Progress("phase", phase="examining", result={"doctor": summary(report)})
    refuse(report, config)


def look(prepared: "Prepared") -> Report:
    """Examine network, loop and data within the budget. Of the run everything stays as it is, its random generators too."""
    is_default = prepared.frozen and prepared.config.model == TrainConfig.model_fields["model"].default
    ends = time.monotonic() + (BUDGET_OF_DEFAULT if is_default else BUDGET)
    report = Report()
    with _apart():
        for organ, make in (("M", patients.structure), ("L", patients.learning), ("D", _with_data)):
            report += visited(partial(make, prepared), [one for one in EXAMINATIONS if one.code.startswith(organ)], ends=ends)
    return _named(report, prepared)


@contextmanager
def _apart() -> Iterator[None]:
    """Nothing that is drawn at random in here is drawn from the run's own.

    One thread does it: for pictures as small as these a second one hardly pays, and on a busy machine every operation waits for it.
    """
    state, threads = device.random_state(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        device.restore_random_state(state)


def _with_data(prepared: "Prepared") -> Patient:
    pictures = patients.few(prepared, prepared.config.image_size)
    return Patient(nn.Identity(), pictures, data=patients.data(prepared, "train", "val"))


def visited(make: Callable[[], Patient], examinations: Sequence[Examination], *, ends: float) -> Report:
    """Put a patient together and visit it, until `ends` (time.monotonic). What fails of that is the doctor's own failure, a warning."""
    if not examinations:
        return Report()
    began = time.monotonic()
    if began > ends:
        return Report(not_run={one.code: "budget" for one in examinations})
    try:
        patient = make()
        report = visit(patient, examinations, budget=ends - time.monotonic())
    except ANY_ERROR as error:  # whatever it is, it is the doctor's, and the run goes on
        finding = Finding(
            "S00", "warning", "The doctor's own failure: what it examines could not be put together.", Culprit("catdog.doctor"),
            (f"{type(error).__name__}: {error}"[:500],), "Report it: it says nothing about the network, and the run goes on.",
        )
        report = Report((finding,), not_run={one.code: "the doctor's own failure" for one in examinations})
    return replace(report, seconds=time.monotonic() - began)


def packaged(prepared: "Prepared", predictor: Predictor, exact: Path, lines: list[Progress]) -> Path | None:
    """Examine a package before it is one: does what will answer users answer as what was trained? Returns where the report lies.

    `exact` is the graph in float32: it must answer as the network does. What 8 bits may change was measured when they were chosen.
    What is to be said goes to `lines`.

    Raises:
        Unhealthy: it certainly does not, and the config says gate.
    """
    if prepared.config.doctor != "off":
        ends = time.monotonic() + SERVING_BUDGET
        organ = [one for one in EXAMINATIONS if one.code.startswith("S")]
        with _apart():
            report = visited(partial(patients.serving, prepared, predictor), [one for one in organ if one.code != "S02"], ends=ends)
            report += visited(partial(patients.serving, prepared, predictor, exact), [one for one in organ if one.code == "S02"], ends=ends)
        report = _named(report, prepared)
        lines += said(report, phase="packaging")
        amend(prepared.folder, report)
        refuse(report, prepared.config)
    report_at = prepared.folder / REPORT
    return report_at if report_at.exists() else None


def amend(folder: Path, report: Report) -> Report:
    """Write what was found into the report of a run folder, in place of what it said of the same examinations; returns the whole."""
    before = Report.read(folder) or Report()
    anew = report.codes
    kept = Report(
        tuple(finding for finding in before.findings if finding.code not in anew),
        tuple(code for code in before.passed if code not in anew),
        {code: reason for code, reason in before.not_run.items() if code not in anew}, before.seconds,
    )
    whole = kept + report
    with write_atomically(folder / REPORT) as unfinished:
        unfinished.write_text(json.dumps(whole.to_dict(), indent=1))
    return whole


def said(report: Report, *, phase: str) -> Iterator[Progress]:
    """A line for each finding; of one that would be too long the report has all."""
    for finding in report.findings:
        fields = asdict(finding)
        if not fits(fields):
            fields = asdict(replace(
                finding, message=finding.message[:LONGEST], evidence=tuple(line[:200] for line in finding.evidence[:10]),
                culprit=replace(finding.culprit, what=finding.culprit.what[:LONGEST]), remedy=finding.remedy[:LONGEST],
            ))
        message = f"{finding.severity} {finding.code}: {finding.message} ({finding.culprit})"
        yield Progress("finding", phase=phase, message=message[:LONGEST], remedy=fields["remedy"] or None, result={"finding": fields})


def summary(report: Report) -> dict[str, Any]:
    """What the job record says of a report."""
    return {
        "healthy": report.is_healthy, "errors": len(report.errors), "warnings": len(report.warnings), "passed": len(report.passed),
        "not_run": dict(report.not_run), "seconds": round(report.seconds, 2),
    }


def refuse(report: Report, config: TrainConfig) -> None:
    """End a run in which something is certainly wrong.

    Raises:
        Unhealthy: there is an error, and the config says gate.
    """
    if config.doctor != "gate" or report.is_healthy:
        return
    errors = " ".join(f"{finding.code}: {finding.message} ({finding.culprit})" for finding in report.errors)
    raise Unhealthy(
        f"Expected nothing that is certainly wrong. Received: {len(report.errors)} of it. {errors[:LONGEST]}", report=report,
        remedy=report.errors[0].remedy or None,
    )


def verdict(found: Sequence[Finding], prepared: "Prepared", *, phase: str) -> Generator[Progress]:
    """Say what was found in a run under way, write it down beside what was before, and end the run if it must be.

    Raises:
        Unhealthy: there is an error, and the config says gate.
    """
    report = Report(tuple(found))
    yield from said(report, phase=phase)
    before = Report.read(prepared.folder) or Report()
    amend(prepared.folder, Report(tuple(one for one in before.findings if one.code in {new.code for new in found})) + report)
    refuse(report, prepared.config)


def _named(report: Report, prepared: "Prepared") -> Report:
    """With the names that pictures had for their owner, in place of those of their bytes."""
    names = {record.sha256: record.name for record in prepared.dataset.records}
    stored = re.compile(r"[^\s,'\"()]*/images/[0-9a-f]{2}/([0-9a-f]{64})")

    def mend(text: str) -> str:
        return stored.sub(lambda found: names.get(found[1], found[0]), text)

    return replace(report, findings=tuple(
        replace(
            finding, message=mend(finding.message), evidence=tuple(map(mend, finding.evidence)), remedy=mend(finding.remedy),
            culprit=replace(finding.culprit, what=mend(finding.culprit.what)),
        )
        for finding in report.findings
    ))
