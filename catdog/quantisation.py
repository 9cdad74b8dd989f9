"""obstacle, quantise, milliseconds, choose, Choice: a network in 8-bit integers, and whether it may be served.

N pictures, S side, C labels. Convolutions, and what stands between them, multiply in integers; pixels are normalised, pooled and given
labels in float32 as before.
"""

import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catdog import device as devices
from catdog.files import write_atomically

PICTURES = 100
"""Of train, by whose activations the ranges of integers are chosen."""
LOST_SHARE, LOST_PICTURES = 0.005, 1
"""How much accuracy on val may be lost: so much or so many, whichever is more."""
AGREEMENT = 0.98
"""Of val's pictures, how many at least must have the same answer (or all but LOST_PICTURES),"""
COSINE = 0.99
"""and how alike their logits must be, each label's less its mean."""
QUICKER = 1.2
"""How much quicker it must answer one picture on one thread: for less nobody would give up exactness."""
ROUNDS = 20
"""Pictures of which the quickest counts: other work on the machine only ever makes one slower."""
_TYPES = ("Conv", "Clip", "Relu", "Add")
_CURVED = frozenset({"Erf", "Gelu", "HardSigmoid", "HardSwish", "LayerNormalization", "Sigmoid", "Softmax", "Tanh"})
"""Between layers of these every value is turned into a float and back: 8 bits took 0.7 to 0.9 of float32's pace (EfficientNet-B0,
MobileNetV3, ConvNeXt, Swin), 1.5 to 3.4 times it without (SqueezeNet, EfficientNet-Lite0, ResNet-18)."""
_BATCH = 10


@dataclass(frozen=True, slots=True)
class Choice:
    """Two graphs of one network on the same pictures of val; it goes into package.json."""

    served: str
    """float32 or int8."""
    reason: str
    """Why."""
    accuracy: dict[str, float] | None = None
    """On val, by graph."""
    milliseconds: dict[str, float] | None = None
    """Of one picture on one thread of the machine that made the package, by graph."""
    agreement: float | None = None
    cosine: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As it stands in package.json."""
        return asdict(self)


def obstacle(graph: Path) -> str | None:
    """Why 8 bits would not be quicker; None: they may be."""
    import onnx

    found = {node.op_type for node in onnx.load(str(graph), load_external_data=False).graph.node}
    if curved := sorted(found & _CURVED):
        return f"8 bits are no quicker where layers are joined by {', '.join(curved)}"
    return None if "Conv" in found else "8 bits are for convolutions, and it has none"


def quantise(graph: Path, pixels: NDArray[np.uint8], path: Path) -> None:
    """Write `graph` in 8-bit integers to `path`; `pixels` (N, S, S, 3) uint8 say which values occur.

    Weights have 7 bits: without VNNI (AVX2 alone) a processor adds two products in 16 bits, which full ones overflow, and it would answer
    otherwise than the machine on which the package was validated. Activations have no sign: for signed ones the kernels are slower.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Batches(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = iter([pixels[first : first + _BATCH] for first in range(0, len(pixels), _BATCH)])

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            batch = next(self._batches, None)
            return None if batch is None else {"pixels": batch}

    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # it advises, on the root logger, what is done here
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{path.name}.tmp-") as folder, write_atomically(path) as unfinished:
            plain = Path(folder) / "plain.onnx"
            quant_pre_process(graph, plain, skip_symbolic_shape=True)
            quantize_static(
                plain, unfinished, Batches(), quant_format=QuantFormat.QDQ, op_types_to_quantize=list(_TYPES), per_channel=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, reduce_range=True,
                extra_options={"CalibMovingAverage": True},  # one odd picture does not stretch the range of all
            )
    finally:
        logger.setLevel(level)


def choose(
    exact: NDArray[np.float32], rounded: NDArray[np.float32], target: NDArray[np.int64], *, milliseconds: Sequence[float],
) -> Choice:
    """Decide by logits (N, C) of val, float32's and int8's, by its target (N,), and by how long each takes."""
    hits = [int((logits.argmax(axis=1) == target).sum()) for logits in (exact, rounded)]
    same, images = int((exact.argmax(axis=1) == rounded.argmax(axis=1)).sum()), len(target)
    cosine = _cosine(exact, rounded)
    lost, allowed = hits[0] - hits[1], max(LOST_SHARE * images, LOST_PICTURES)
    quicker = milliseconds[0] / milliseconds[1]
    if lost > allowed:
        served, reason = "float32", f"8 bits answer {lost} of val's {images} pictures wrongly that float32 answers rightly"
    elif same < min(AGREEMENT * images, images - LOST_PICTURES) or cosine < COSINE:
        served, reason = "float32", f"8 bits answer {images - same} of val's {images} otherwise, logits alike to {cosine:.3f}"
    elif quicker < QUICKER:
        served, reason = "float32", f"8 bits are {quicker:.1f} times as quick"
    else:
        served, reason = "int8", f"{quicker:.1f} times as quick, and as good on val"
    return Choice(
        served, reason, {"float32": hits[0] / images, "int8": hits[1] / images},
        {name: round(value, 2) for name, value in zip(("float32", "int8"), milliseconds, strict=True)}, same / images, cosine,
    )


def milliseconds(graphs: Sequence[Path], pixels: NDArray[np.uint8]) -> list[float]:
    """How long each graph takes for one picture on one thread, the quickest of ROUNDS in which they take turns."""
    sessions = [devices.session(graph, device="cpu", threads=1) for graph in graphs]
    taken = np.empty((ROUNDS, len(graphs)))
    for turn in range(ROUNDS):
        one = pixels[turn % len(pixels)][np.newaxis]
        for place, session in enumerate(sessions):
            began = time.perf_counter()
            session.run(["logits"], {"pixels": one})
            taken[turn, place] = 1000 * (time.perf_counter() - began)
    return [float(value) for value in taken.min(axis=0)]


def _cosine(exact: NDArray[np.float32], rounded: NDArray[np.float32]) -> float:
    one, other = (logits - logits.mean(axis=0) for logits in (exact.astype(np.float64), rounded.astype(np.float64)))
    return float((one * other).sum() / max(float(np.sqrt((one**2).sum() * (other**2).sum())), 1e-12))
