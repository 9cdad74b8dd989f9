"""The model organ.

    branches.py      M01-M05  (evidence.py gathers it, trace.py sees a step from inside)    registration.py  M07
    gradients.py     M06      (flow.py finds where a gradient ends)                         sight.py         M08
    neighbours.py    M09      head.py   M10 (criterion.py: what a loss takes)               modes.py         M11
    sharing.py       M12      pretrained.py   M13                                           parity.py        M14
    operations.py    what torch computes     redraw.py   the same network elsewhere     hidden.py   what is registered nowhere
"""

from catdog.doctor.examination import Examination
from catdog.doctor.model import branches, gradients, head, modes, neighbours, parity, pretrained, registration, sharing, sight

EXAMINATIONS: tuple[Examination, ...] = (
    *branches.EXAMINATIONS, *registration.EXAMINATIONS, *head.EXAMINATIONS, *pretrained.EXAMINATIONS, *sharing.EXAMINATIONS,
    *modes.EXAMINATIONS, *neighbours.EXAMINATIONS, *gradients.EXAMINATIONS, *sight.EXAMINATIONS, *parity.EXAMINATIONS,
)
