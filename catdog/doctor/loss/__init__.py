"""The loss organ.

    verdict.py      L05: which loss the loop really trains with     planting.py   a network whose answers are known beforehand
    certificate.py  which loss a gradient is of                     answers.py    what comes back to chosen answers
    doubling.py     an activation before a loss that has its own    hearing.py    which losses of torch were computed from what
    clean.py        the plain loss of a classifier
"""

from catdog.doctor.examination import Examination
from catdog.doctor.loss import verdict

EXAMINATIONS: tuple[Examination, ...] = verdict.EXAMINATIONS
