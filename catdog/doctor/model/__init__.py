"""EXAMINATIONS of the model organ beside its branches: M06 to M14."""

from collections.abc import Iterable
from dataclasses import replace

import torch

from catdog.doctor.examination import Examination
from catdog.doctor.findings import Finding
from catdog.doctor.model import gradients, head, modes, neighbours, parity, pretrained, registration, sharing, sight
from catdog.doctor.patient import Patient


def _eagerly(examination: Examination) -> Examination:
    """Structure is what the owner wrote: what torch.compile made of it is looked at by parity alone."""

    def run(patient: Patient) -> Iterable[Finding]:
        with torch.compiler.set_stance("force_eager"):
            return list(examination.run(patient))

    return replace(examination, run=run)


EXAMINATIONS: tuple[Examination, ...] = (
    *map(
        _eagerly, (
            *registration.EXAMINATIONS, *head.EXAMINATIONS, *pretrained.EXAMINATIONS, *sharing.EXAMINATIONS, *modes.EXAMINATIONS,
            *neighbours.EXAMINATIONS, *gradients.EXAMINATIONS, *sight.EXAMINATIONS,
        ),
    ),
    *parity.EXAMINATIONS,
)
