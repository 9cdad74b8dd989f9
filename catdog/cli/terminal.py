"""out, err, REPORTED_NAMES: the terminal, as every command writes to it."""

from rich.console import Console

REPORTED_NAMES = 20
"""Of each finding, on a terminal."""

out = Console(highlight=False, markup=False)
err = Console(highlight=False, markup=False, stderr=True)
