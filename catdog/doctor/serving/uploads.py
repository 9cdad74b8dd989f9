"""real, uploads_of, serving_of, answer: what serving is asked with, and what it is held against."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from catdog.doctor.data.census import entries, spread
from catdog.doctor.examination import CannotTell
from catdog.doctor.patient import Patient, Serving, logits_of
from catdog.doctor.serving.golden import Golden, golden

REAL = 4
"""Pictures of val that are asked beside the golden ones."""
ASKED = 8
"""Pictures that are answered together."""


def serving_of(patient: Patient) -> Serving:
    """The serving organ.

    Raises:
        CannotTell: there is none.
    """
    if patient.serving is None:
        raise CannotTell("no serving")
    return patient.serving


def real(patient: Patient) -> Iterator[Golden]:
    """Some pictures of val and test; none where there is no data."""
    if patient.data is None:
        return
    found = [entry for entry in entries(patient) if entry.split in ("val", "test")]
    for place in spread(len(found), REAL):
        path = found[place].path
        if path.exists():
            yield Golden(path.name, path.read_bytes(), is_plain=True)


def uploads_of(patient: Patient) -> list[bytes]:
    """Pictures that users might send: real ones first."""
    return [one.data for one in (*real(patient), *golden())][:ASKED]


def answer(network: nn.Module, inputs: Tensor) -> Tensor:
    """(N, C) float64: its logits, in its present mode."""
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    with torch.no_grad():
        logits = logits_of(network(inputs.to(device)))
    if logits is None:
        raise CannotTell("the network returns no logits")
    return logits.detach().cpu().double()
