"""Engine: a network's graph in ONNX Runtime, for one caller or for many.

A call over all cores has the lowest latency (3.7 ms instead of 6.5: EfficientNet-B0, 2 cores), but its threads wait for each other and
spin; as many calls as cores, each on one thread, give more answers a second. So on a CPU with several cores a shared engine has two
sessions: a wide one for a call that is alone on a machine with room, and one of a single thread that all others use at the same time.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from catdog import device as devices


class Engine:
    """A loaded graph. Threads may share one."""

    def __init__(self, graph: Path, *, device: str, shared: bool) -> None:
        """`device` is auto, cpu or cuda, as in Settings; `shared`: many call at the same time."""
        self._wide = self._narrow = devices.session(graph, device=device, threads=0)
        if shared and min(devices.lanes(device)[0], devices.cores()) > 1:
            self._narrow = devices.session(graph, device=device, threads=1)

    @property
    def outputs(self) -> frozenset[str]:
        """What it can be asked for."""
        return frozenset(output.name for output in self._wide.get_outputs())

    def run(self, outputs: Sequence[str], pixels: NDArray[np.uint8], *, alone: bool = True) -> list[NDArray[np.float32]]:
        """pixels (N, S, S, 3) uint8 -> the named outputs, each (N, ...) float32, and no others; `alone`: nobody else calls now."""
        session = self._wide if alone and devices.has_room() else self._narrow
        return [np.asarray(output, dtype=np.float32) for output in session.run(list(outputs), {"pixels": pixels})]
