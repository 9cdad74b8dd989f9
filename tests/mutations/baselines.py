"""BASELINES: others who look at the same hosts, each as its own documentation shows it.

    torchtest2    check_model on a batch, with the host's loss and optimizer
    preflight-ml  its checks of the loader, the network and the loss
    torch-audit   autopatch around five of the host's own steps
    ruff          F841 over the host's files: a local variable that is assigned and never read
    overfit       "overfit one batch" alone: 60 of the host's own steps on eight pictures
    curves        spike, trend and anomaly in the losses of a whole training, after TrainCheck's comparison (OSDI'25, section 5.1)

The packages lie in a folder beside the environment (`make mutations`); one that is not there fails each of its runs, and the table says so.
"""

import itertools
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from catdog.doctor.patient import PROBE, Patient, logits_of
from catdog.doctor.visit import probe
from tests.mutations.patients import Host, patient_of

Finding = dict[str, Any]
Examiner = Callable[[Path, float], dict[str, Any]]
"""(the host's folder, seconds it has) -> its part of a row."""
STEPS = 60
AUDITED = 5
WINDOW = 10
"""Steps that a spike is seen against."""
SPIKE = 1.75
TREND = 2
"""Epochs without a better validation loss: of three, all but the first."""
DEVIATIONS = 3.0


def _finding(code: str, severity: str, message: str, what: str = "") -> Finding:
    return {"code": code, "severity": severity, "message": message, "what": what, "where": None}


def torchtest2(folder: Path, budget: float) -> dict[str, Any]:
    from torchtest2 import check_model

    patient = patient_of(folder)
    report = check_model(patient.model, *patient.batch, loss_fn=patient.loss, optimizer=patient.optimizer)
    findings = [_finding(one.name, "error", one.message) for one in report.failures]
    return {"findings": findings + [_finding(one.name, "warning", one.message) for one in report.warnings]}


def preflight_ml(folder: Path, budget: float) -> dict[str, Any]:
    from preflight import run_checks

    patient = patient_of(folder)
    data = patient.data
    if data is None or data.loader is None:
        raise ValueError("Expected a host with a loader")
    results = run_checks(
        data.loader("train", 0), model=patient.model, loss_fn=patient.loss, config={"val_dataloader": data.loader("val", 0)},
    )
    severity = {"fatal": "error", "warn": "warning", "info": "info"}
    return {"findings": [_finding(one.name, severity[one.severity.value], one.message) for one in results if not one.passed]}


def torch_audit(folder: Path, budget: float) -> dict[str, Any]:
    from torch_audit import autopatch

    patient = patient_of(folder)
    auditor = autopatch(patient.model, optimizer=patient.optimizer, every_n_steps=1)
    for _ in range(AUDITED):
        patient.train_step()
    result = auditor.finish()
    severity = {"FATAL": "error", "ERROR": "error", "WARN": "warning", "INFO": "info"}
    return {
        "findings": [_finding(one.rule_id, severity[one.severity.value], one.message, one.module_path or "") for one in result.findings],
    }


def ruff(folder: Path, budget: float) -> dict[str, Any]:
    command = ["ruff", "check", "--isolated", "--no-cache", "--select", "F841", "--output-format", "json", str(folder)]
    found = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
    return {"findings": [_finding(one["code"], "error", one["message"], Path(one["filename"]).name) for one in json.loads(found.stdout)]}


def overfit(folder: Path, budget: float) -> dict[str, Any]:
    """As Karpathy's recipe has it: eight pictures must be learned by heart."""
    patient = patient_of(folder)
    batch = probe(patient)
    start = _loss(patient, batch)
    for _ in range(STEPS):
        patient.train_step(batch)
    inputs, target = batch
    logits = logits_of(patient.model(inputs))
    end, hits = _loss(patient, batch), float((logits.argmax(1) == target).float().mean()) if logits is not None else 0.0
    if end <= 0.1 * start or hits == 1.0:
        return {"findings": []}
    message = f"{PROBE} pictures are not learned: loss {start:.3f} -> {end:.3f}, accuracy {hits:.2f}"
    return {"findings": [_finding("overfit", "error", message)]}


def _loss(patient: Patient, batch: Any) -> float:
    inputs, target = batch
    return float(patient.loss(patient.model(inputs), target)) if patient.loss is not None else math.nan


def _drawn(folder: Path) -> tuple[list[float], list[Mapping[str, float]]]:
    """The loss of every step and the record of every epoch of the host's own training."""
    host, losses = Host(folder), list[float]()
    original = host.train.train_step

    def noted(model: nn.Module, *arguments: Any, **options: Any) -> Any:
        loss = original(model, *arguments, **options)
        losses.append(float(loss))
        return loss

    host.train.train_step = noted
    history, _ = host.train.main(folder / "config.json", folder)
    return losses, history


def _spikes(losses: Sequence[float], history: Sequence[Mapping[str, float]]) -> str:
    for step in range(WINDOW, len(losses)):
        before = statistics.fmean(losses[step - WINDOW : step])
        if not losses[step] <= before + (SPIKE - 1) * abs(before):
            return f"the loss of step {step} is {losses[step]:.3f}, of the {WINDOW} before it {before:.3f}"
    return ""


def _trends(losses: Sequence[float], history: Sequence[Mapping[str, float]]) -> str:
    values = [record["val_loss"] for record in history]
    best = min(range(len(values)), key=values.__getitem__)
    return f"no better val_loss in {TREND} epochs: {values}" if len(values) - 1 - best >= TREND else ""


def _anomalies(losses: Sequence[float], history: Sequence[Mapping[str, float]]) -> str:
    """Steps whose change of loss is far from the other steps'."""
    changes = [after - before for before, after in itertools.pairwise(losses)]
    mean, deviation = statistics.fmean(changes), statistics.pstdev(changes)
    far = [step for step, change in enumerate(changes, start=1) if deviation and abs(change - mean) > DEVIATIONS * deviation]
    return f"the loss jumps at the steps {far}" if far else ""


def curves(folder: Path, budget: float) -> dict[str, Any]:
    """Three detectors of one training, each with a code of its own."""
    drawn = _drawn(folder)
    said = {"spike": _spikes(*drawn), "trend": _trends(*drawn), "anomaly": _anomalies(*drawn)}
    return {"findings": [_finding(code, "error", message) for code, message in said.items() if message]}


BASELINES: Mapping[str, Examiner] = {
    "torchtest2": torchtest2, "preflight-ml": preflight_ml, "torch-audit": torch_audit, "ruff": ruff, "overfit": overfit, "curves": curves,
}
CODES: Mapping[str, Sequence[str]] = {"curves": ("spike", "trend", "anomaly")}
"""Of those that are several in one: each is judged by itself."""
