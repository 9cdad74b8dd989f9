"""examine, Patient, Intent, Finding, Report: no silent bug burns hours.

    report = examine(model, batch, loss, optimizer, step=train_step)
    report.raise_if_unhealthy()

It needs no service, no queue and no data set of catdog's: any network, any loss, anyone's own training step. The model, the optimizer
and every generator are afterwards what they were before, bit by bit. An error is said only of what is certainly wrong; the rest is a
warning.

What has to do with networks is imported when it is asked for: the service, which has no torch, reads findings and curves.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from catdog.doctor.findings import Culprit, Finding, Report

if TYPE_CHECKING:
    from catdog.doctor.consultation import examine
    from catdog.doctor.patient import Data, DataSplit, Intent, Patient, Serving, Training

__all__ = ["Culprit", "Data", "DataSplit", "Finding", "Intent", "Patient", "Report", "Serving", "Training", "examine"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("catdog.doctor.consultation" if name == "examine" else "catdog.doctor.patient"), name)
