"""EXAMINATIONS: everything the doctor asks, in the order of what a finding is worth: exact and cheap questions first."""

from catdog.doctor import data, loop, loss, model, serving, training
from catdog.doctor.examination import Examination
from catdog.doctor.loop import ladder, schedule
from catdog.doctor.model import branches

EXAMINATIONS: tuple[Examination, ...] = (
    *branches.EXAMINATIONS, *model.EXAMINATIONS, *loss.EXAMINATIONS, *loop.EXAMINATIONS, *schedule.EXAMINATIONS,
    *data.EXAMINATIONS, *serving.EXAMINATIONS, *training.EXAMINATIONS,
    *ladder.EXAMINATIONS,  # the last, for it refers to what the others have found
)
