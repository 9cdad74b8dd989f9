"""Dead branches."""

from catdog.doctor.examination import Examination

EXAMINATIONS: tuple[Examination, ...] = ()
