"""EXAMINATIONS: everything the doctor asks, in the order of what a finding is worth: exact and cheap questions first."""

from catdog.doctor import data, loop, loss, model, serving, training
from catdog.doctor.examination import Examination

EXAMINATIONS: tuple[Examination, ...] = (
    *model.EXAMINATIONS, *loss.EXAMINATIONS, *loop.EXAMINATIONS, *data.EXAMINATIONS, *serving.EXAMINATIONS, *training.EXAMINATIONS,
    *loop.LADDER,
)
