"""The serving organ: what users will get, held against what was validated.

    preprocessing.py  S01: the picture        golden.py    pictures that are stored in every way that an upload may be
    network.py        S02: the network        uploads.py   what serving is asked with, and what it is held against
    replies.py        S03 S04: names and numbers
"""

from catdog.doctor.examination import Examination
from catdog.doctor.serving import network, preprocessing, replies

EXAMINATIONS: tuple[Examination, ...] = (*preprocessing.EXAMINATIONS, *network.EXAMINATIONS, *replies.EXAMINATIONS)
