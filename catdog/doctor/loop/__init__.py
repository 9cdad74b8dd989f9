"""EXAMINATIONS: everything that is asked of a training loop, exact and cheap questions first."""

from catdog.doctor.examination import Examination
from catdog.doctor.loop import accumulation, coverage, effect, evaluation, freshness, frozen, metric, order

EXAMINATIONS: tuple[Examination, ...] = (
    *effect.EXAMINATIONS, *coverage.EXAMINATIONS, *order.EXAMINATIONS, *freshness.EXAMINATIONS, *metric.EXAMINATIONS,
    *evaluation.EXAMINATIONS, *frozen.EXAMINATIONS, *accumulation.EXAMINATIONS,
)
