"""CONFIGURATIONS: everybody who lives in the zoo, but for the networks of networks.py."""

from tests.mutations.zoo import attention, convolutions, freezing, loops, oddities, sets, sharing, steps, targets
from tests.mutations.zoo.healthy import Healthy

_FILES = (convolutions, attention, freezing, sharing, targets, loops, steps, sets, oddities)

CONFIGURATIONS: tuple[Healthy, ...] = tuple(
    sorted((one for file in _FILES for one in file.CONFIGURATIONS), key=lambda one: (not one.name[0].isdigit(), one.name))
)
"""The 42 of the catalogue first, in its order."""

