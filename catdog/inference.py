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
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from catdog import device as devices
from catdog.errors import CorruptPackage
from catdog.files import sha256_of
from catdog.images import Preprocess, decode

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

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

    def to_dict(self, top_k: int | None = None) -> dict[str, Any]:
        """As every answer and every row of a bulk prediction shows it; of the probabilities only the `top_k` highest, if it is given."""
        probabilities = self.probabilities
        if top_k is not None:
            probabilities = dict(sorted(probabilities.items(), key=lambda item: -item[1])[:top_k])
        return {"label": self.label, "decision": "label", "confidence": self.confidence, "probabilities": probabilities}


class Predictor:
    """A loaded model package. Threads may share one."""

    def __init__(self, folder: Path, manifest: dict[str, Any], session: "InferenceSession") -> None:
        self.folder = folder
        self.manifest = manifest
        self.labels: tuple[str, ...] = tuple(manifest["labels"])
        self.preprocess = Preprocess.from_dict(manifest["preprocess"])
        self._session = session

    @classmethod
    def load(cls, folder: Path, *, threads: int = 0, device: str = "auto", digest: str | None = None) -> "Predictor":
        """Open a package, check every byte of it and that it repeats its golden logits here; it is warm afterwards.

        `threads` is for one call's arithmetic; 0 means one per core. `device` is auto, cpu or cuda, as in Settings; where a GPU
        does not do, the CPU answers. `digest` is the sha256 of its package.json, where it was published with one.

        Raises:
            CorruptPackage: a file is missing or changed, or an answer differs.
        """
        manifest = read_manifest(folder, digest=digest)
        session = devices.session(folder / "model.onnx", device=device, threads=threads)
        predictor = cls(folder, manifest, session)
        predictor._self_test()
        return predictor

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """pixels (N, S, S, 3) uint8 -> logits (N, C) float32."""
        (logits,) = self._session.run(["logits"], {"pixels": pixels})
        return np.asarray(logits, dtype=np.float32)

    def predict(self, pixels: NDArray[np.uint8]) -> list[Prediction]:
        """Answer pixels (N, S, S, 3) uint8, one Prediction each."""
        return [self._prediction(row) for row in self.probabilities(self.logits(pixels))]

    def probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """logits (N, C) -> probabilities (N, C), as predictions have them."""
        return softmax(logits)

    def predict_file(self, path: Path) -> Prediction:
        """Decode, preprocess and answer one picture file, in this process.

        Raises:
            BadImage, UnsupportedType, TooLarge: as images.decode.
        """
        return self.predict(self.preprocess.pixels(decode(path.read_bytes()))[np.newaxis])[0]

    def _prediction(self, probabilities: NDArray[np.float64]) -> Prediction:
        best = int(probabilities.argmax())
        return Prediction(
            label=self.labels[best], confidence=float(probabilities[best]),
            probabilities={label: float(value) for label, value in zip(self.labels, probabilities, strict=True)},
        )

    def golden(self) -> tuple[list[Path], NDArray[np.float32]]:
        """The golden pictures (N files), and the logits (N, C) float32 that the trained network answered to them."""
        logits = np.load(self.folder / "golden" / "logits.npy", allow_pickle=False)
        return sorted((self.folder / "golden").glob("*.image")), logits

    def _self_test(self) -> None:
        pictures, expected = self.golden()
        pixels = np.stack([self.preprocess.pixels(decode(picture.read_bytes())) for picture in pictures])
        received = self.logits(pixels)
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


def read_manifest(folder: Path, *, digest: str | None = None) -> dict[str, Any]:
    """Read package.json and check every file it names.

    Raises:
        CorruptPackage: it is missing, of another format or not the one of `digest`, or a file differs from its sha256.
    """
    try:
        if digest not in (None, sha256_of(folder / "package.json")):
            raise CorruptPackage("Expected the package.json that the model was published with. Received: another one.")
        manifest: dict[str, Any] = json.loads((folder / "package.json").read_text())
        if manifest["format"] != FORMAT:
            raise CorruptPackage(f"Expected a package of format {FORMAT}. Received: {manifest['format']}.")
        changed = [name for name, digest in manifest["files"].items() if sha256_of(folder / name) != digest]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptPackage(f"Expected a model package with a package.json. Received: {type(error).__name__}.") from error
    if changed:
        raise CorruptPackage(f"Expected the files that package.json describes. Received: {', '.join(changed)} changed.")
    return manifest

