"""Predictor, Prediction: from a model package to an answer. onnxruntime and numpy, no torch.

    package/
        model.onnx           input pixels (N, S, S, 3) uint8; outputs logits (N, C), features (N, F) float32
        weights.safetensors  to go on training from
        package.json         labels in order, preprocessing, metrics, config, versions, sha256 of every other file
        golden/              a few encoded pictures and logits.npy, what the trained network answered to them
        CARD.md              the same for people

A package needs no flag and no environment: what was validated is what is served.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catdog.engine import Engine
from catdog.errors import CorruptPackage
from catdog.files import sha256_of
from catdog.images import Preprocess

FORMAT = 1
"""The number of this package layout; a package of another number is refused."""
TOLERANCE = 1e-3
"""How far a golden logit may be off on this machine, as a share of the largest one (at least 1): float32 kernels differ by
1e-5 between processors, a wrong picture or weight by 1e-1."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer to one picture."""

    label: str
    confidence: float
    """The probability of `label`."""
    probabilities: dict[str, float]
    """By label, in the order of the package; they add up to 1."""


class Predictor:
    """A loaded model package. Threads may share one."""

    def __init__(self, folder: Path, manifest: dict[str, Any], engine: Engine) -> None:
        self.folder = folder
        self.manifest = manifest
        self.labels: tuple[str, ...] = tuple(manifest["labels"])
        self.preprocess = Preprocess.from_dict(manifest["preprocess"])
        self._engine = engine

    @classmethod
    def load(cls, folder: Path, *, device: str = "auto", shared: bool = False) -> "Predictor":
        """Open a package, check every byte of it and that it repeats its golden logits here; it is warm afterwards.

        `device` is auto, cpu or cuda, as in Settings; where a GPU does not do, the CPU answers. `shared`: many threads will ask at once.

        Raises:
            CorruptPackage: a file is missing or changed, or an answer differs.
        """
        manifest = read_manifest(folder)
        predictor = cls(folder, manifest, Engine(folder / "model.onnx", device=device, shared=shared))
        predictor._self_test()
        return predictor

    def logits(self, pixels: NDArray[np.uint8], *, alone: bool = True) -> NDArray[np.float32]:
        """pixels (N, S, S, 3) uint8 -> logits (N, C) float32; `alone`: nobody else asks now."""
        (logits,) = self._engine.run(("logits",), pixels, alone=alone)
        return logits

    def predict(self, pixels: NDArray[np.uint8], *, alone: bool = True) -> list[Prediction]:
        """Answer pixels (N, S, S, 3) uint8, one Prediction each; `alone`: nobody else asks now."""
        return [self._prediction(row) for row in softmax(self.logits(pixels, alone=alone))]

    def predict_file(self, path: Path) -> Prediction:
        """Decode, preprocess and answer one picture file, in this process.

        Raises:
            BadImage, UnsupportedType, TooLarge: as images.decode.
        """
        return self.predict(self.preprocess.pixels_of(path.read_bytes())[np.newaxis])[0]

    def _prediction(self, probabilities: NDArray[np.float64]) -> Prediction:
        best = int(probabilities.argmax())
        return Prediction(
            label=self.labels[best], confidence=float(probabilities[best]),
            probabilities={label: float(value) for label, value in zip(self.labels, probabilities, strict=True)},
        )

    def _self_test(self) -> None:
        pictures = sorted((self.folder / "golden").glob("*.image"))
        expected = np.load(self.folder / "golden" / "logits.npy", allow_pickle=False)
        # One by one: a batch would leave its memory behind. Alone and in company by turns: both ways are tested and warm then.
        received = np.concatenate([
            self.logits(self.preprocess.pixels_of(picture.read_bytes())[np.newaxis], alone=number % 2 == 0)
            for number, picture in enumerate(pictures)
        ])
        if received.shape != expected.shape or received.shape[1] != len(self.labels):
            shape = (*expected.shape[:1], len(self.labels))
            raise CorruptPackage(f"Expected golden logits of shape {shape}. Received: {received.shape}.")
        worst = float(np.abs(received - expected).max()) / max(1.0, float(np.abs(expected).max()))
        if not worst <= TOLERANCE:
            raise CorruptPackage(f"Expected the golden logits to {TOLERANCE}. Received: one that is {worst:.2g} off.")


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """logits (N, C) -> probabilities (N, C) float64 that add up to 1 a row."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read package.json and check every file it names.

    Raises:
        CorruptPackage: it is missing, of another format, or a file differs from its sha256.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / "package.json").read_text())
        if manifest["format"] != FORMAT:
            raise CorruptPackage(f"Expected a package of format {FORMAT}. Received: {manifest['format']}.")
        changed = [name for name, digest in manifest["files"].items() if sha256_of(folder / name) != digest]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptPackage(f"Expected a model package with a package.json. Received: {type(error).__name__}.") from error
    if changed:
        raise CorruptPackage(f"Expected the files that package.json describes. Received: {', '.join(changed)} changed.")
    return manifest

