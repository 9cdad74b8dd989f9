"""The training organ: what is watched while a network learns, and what that leaves on disk.

    fit.py        T04 T05 of anyone's short training (ledger.py writes down what it reads)
    guards.py     T02 T03 of a run of ours            attendance.py  T04: which pictures its epochs draw
    selection.py  T05: whether the file of its best epoch is the best epoch's
"""

from catdog.doctor.examination import Examination
from catdog.doctor.training import fit

EXAMINATIONS: tuple[Examination, ...] = fit.EXAMINATIONS
