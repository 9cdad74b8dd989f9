"""EXAMINATIONS: everything the doctor asks, in the order of what a finding is worth: exact and cheap questions first."""

from catdog.doctor import branches, data, serving, training
from catdog.doctor.examination import Examination

EXAMINATIONS: tuple[Examination, ...] = (
    *branches.EXAMINATIONS, *data.EXAMINATIONS, *training.EXAMINATIONS, *serving.EXAMINATIONS,
)
