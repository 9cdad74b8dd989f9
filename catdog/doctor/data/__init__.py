"""The data organ: D01 to D10, in the order of what a finding is worth.

    census.py   the files, each looked at once        draws.py     items of the owner's data set, each taken once
    files.py    D01 D05                               copies.py    D03
    targets.py  D02 D04 D08                           geometry.py  D06
    card.py     D07                                   signal.py    D09
    epochs.py   D10                                   deviations.py, resampling.py  by which mistake one picture becomes another
"""

from catdog.doctor.data import card, copies, epochs, files, geometry, signal, targets
from catdog.doctor.examination import Examination

EXAMINATIONS: tuple[Examination, ...] = (
    *targets.EXAMINATIONS, *card.EXAMINATIONS, *epochs.EXAMINATIONS, *geometry.EXAMINATIONS, *files.EXAMINATIONS, *copies.EXAMINATIONS,
    *signal.EXAMINATIONS,
)
