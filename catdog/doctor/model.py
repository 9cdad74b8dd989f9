"""EXAMINATIONS of the model organ beside its branches: M06 to M14."""

from catdog.doctor import gradients, head, modes, neighbours, parity, pretrained, registration, sharing, sight
from catdog.doctor.examination import Examination

EXAMINATIONS: tuple[Examination, ...] = (
    *registration.EXAMINATIONS, *head.EXAMINATIONS, *pretrained.EXAMINATIONS, *sharing.EXAMINATIONS, *neighbours.EXAMINATIONS,
    *modes.EXAMINATIONS, *gradients.EXAMINATIONS, *sight.EXAMINATIONS, *parity.EXAMINATIONS,
)
