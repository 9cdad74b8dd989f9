"""The loop organ: everything that is asked of a training loop, exact and cheap questions first.

    effect.py     L02    whether a step moves anything        coverage.py    L01    what the optimizer holds
    order.py      L03    the order of events                  freshness.py   L04    gradients of an earlier step
    descent.py    L06    whether a step goes down             metric.py      L10    what an evaluation reports
    evaluation.py L12    what an evaluation changes           frozen.py      L11    what is frozen and moves
    accumulation.py L09  micro-batches                        schedule.py    L08    the learning rate (rate.py tries it)
    ladder.py     L07    one sample, then one batch           rehearsal.py          what a step does until it has made updates
"""

from catdog.doctor.examination import Examination
from catdog.doctor.loop import accumulation, coverage, descent, effect, evaluation, freshness, frozen, ladder, metric, order, schedule

EXAMINATIONS: tuple[Examination, ...] = (
    *descent.EXAMINATIONS, *effect.EXAMINATIONS, *coverage.EXAMINATIONS, *order.EXAMINATIONS, *freshness.EXAMINATIONS,
    *metric.EXAMINATIONS, *evaluation.EXAMINATIONS, *frozen.EXAMINATIONS, *accumulation.EXAMINATIONS, *schedule.EXAMINATIONS,
)
LADDER: tuple[Examination, ...] = ladder.EXAMINATIONS
"""Apart, and the last of all: it refers to what the others have found."""
