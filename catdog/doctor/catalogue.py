"""EXAMINATIONS: everything the doctor asks, in the order of what a finding is worth: exact and cheap questions first."""

from catdog.doctor import branches, data, ladder, loop, loss, model, schedule, serving, training
from catdog.doctor.examination import Examination

EXAMINATIONS: tuple[Examination, ...] = (
    *branches.EXAMINATIONS, *model.EXAMINATIONS, *loss.EXAMINATIONS, *loop.EXAMINATIONS, *schedule.EXAMINATIONS,
    *data.EXAMINATIONS, *serving.EXAMINATIONS, *training.EXAMINATIONS,
    *ladder.EXAMINATIONS,  # the last, for it refers to what the others have found
)
