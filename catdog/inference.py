"""Predictor, Prediction: from a model package to an answer. onnxruntime and numpy, no torch.

    package/
        model.onnx           input pixels (N, S, S, 3) uint8; outputs logits (N, C), features (N, F) float32, and activation (N, F, h, w)
                             where the head is global pooling and one linear layer
        weights.safetensors  to go on training from, float32 whatever the graph multiplies in
        package.json         labels in order, preprocessing, metrics, temperature, thresholds, quantisation, config, versions,
                             sha256 of every other file
        bank.npz             features of training pictures, from which the distance of others is measured
        head.npy             (C, F) the last layer's weights: where it looked
        golden/              a few encoded pictures and logits.npy, what this graph answered to them
        seen.txt             sha256 of every picture of train and val, a line each: with none of them it can be judged
        plots/  CARD.md      the same for people

A package needs no flag and no environment: what was validated is what is served.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catdog.calibration import REASONS, Bank, Calibration, Reason, softmax
from catdog.engine import Engine
from catdog.errors import CatdogError, CorruptPackage, ExplainUnavailable
from catdog.explanation import class_activation
from catdog.files import sha256_of
from catdog.images import Preprocess

FORMAT = 2
"""The number of this package layout; a package of another number is refused."""
SEEN = "seen.txt"
TOLERANCE = {"float32": 1e-3, "int8": 5e-2}
"""How far a golden logit may be off on this machine, as a share of the largest one (at least 1). float32 kernels differ by 1e-5 between
processors; of eight bits a value on the edge between two steps falls to either side, which made 0.02 between ONNX Runtime's integer
kernels and its float ones (EfficientNet-Lite0). A wrong picture or weight makes 0.1 and more."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer to one picture."""

    label: str | None
    """None: the predictor abstains, and `reason` says why."""
    reason: Reason | None
    confidence: float
    """The probability of the most probable label, calibrated: of so sure answers this share is right."""
    probabilities: dict[str, float]
    """By label, in the order of the package; they add up to 1."""
    distance: float
    """From the pictures it was trained on: cosine, 0 to 2."""
    activation: NDArray[np.float32] | None = None
    """(h, w), 0 to 1: how much each place spoke for the most probable label; where that was asked for."""

    @property
    def decision(self) -> str:
        """What became of it: label or abstain."""
        return "abstain" if self.label is None else "label"

    @property
    def best(self) -> str:
        """The most probable label, whether or not it is given."""
        return max(self.probabilities, key=self.probabilities.__getitem__)

    def __str__(self) -> str:
        if self.reason is None:
            return f"{self.label} {self.confidence:.3f}"
        return f"none: {REASONS[self.reason]} (at best {self.best} {self.confidence:.3f})"

    def to_dict(self, top_k: int | None = None) -> dict[str, Any]:
        """As every answer and every row of a bulk prediction shows it; of the probabilities only the `top_k` highest, if it is given."""
        probabilities = self.probabilities
        if top_k is not None:
            probabilities = dict(sorted(probabilities.items(), key=lambda item: -item[1])[:top_k])
        return {
            "label": self.label, "decision": self.decision, "reason": self.reason, "confidence": self.confidence,
            "probabilities": probabilities, "distance": self.distance,
        }


class Predictor:
    """A loaded model package. Threads may share one."""

    def __init__(self, folder: Path, manifest: dict[str, Any], engine: Engine) -> None:
        self.folder = folder
        self.manifest = manifest
        self.labels: tuple[str, ...] = tuple(manifest["labels"])
        self.preprocess = Preprocess.from_dict(manifest["preprocess"])
        self.calibration = Calibration.from_dict(manifest)
        self._bank = Bank.load(folder / "bank.npz")
        self._head: NDArray[np.float32] | None = None
        if "activation" in engine.outputs:
            self._head = np.load(folder / "head.npy", allow_pickle=False)
        self._engine = engine

    @classmethod
    def load(cls, folder: Path, *, device: str = "auto", shared: bool = False, digest: str | None = None) -> "Predictor":
        """Open a package, check every byte of it and that it repeats its golden logits here; it is warm afterwards.

        `device` is auto, cpu or cuda, as in Settings; where a GPU does not do, the CPU answers. `shared`: many threads will ask at once.
        `digest` is the sha256 of its package.json, where it was published with one.

        Raises:
            CorruptPackage: a file is missing or changed, or an answer differs.
        """
        manifest = read_manifest(folder, digest=digest)
        try:
            engine = Engine(folder / "model.onnx", device=device, shared=shared)
        except (CatdogError, MemoryError):
            raise
        except Exception as error:  # onnxruntime raises its own kinds, without a common parent
            raise CorruptPackage(f"Expected a network that onnxruntime opens. Received: {type(error).__name__}.") from error
        try:
            predictor = cls(folder, manifest, engine)
            predictor._self_test()
        except (CorruptPackage, MemoryError):
            raise
        except Exception as error:
            raise CorruptPackage(f"Expected a whole model package. Received: one in which this is wrong: {error!r}.") from error
        return predictor

    @property
    def tolerance(self) -> float:
        """How far `off` a golden logit may be."""
        return TOLERANCE[self.manifest["quantisation"]["served"]]

    def logits(self, pixels: NDArray[np.uint8], *, alone: bool = True) -> NDArray[np.float32]:
        """pixels (N, S, S, 3) uint8 -> logits (N, C) float32; `alone`: nobody else asks now."""
        (logits,) = self._engine.run(("logits",), pixels, alone=alone)
        return logits

    def seen(self) -> frozenset[str]:
        """The sha256, in hex, of every picture that it was trained on or chosen by.

        Raises:
            CorruptPackage: the package does not say.
        """
        try:
            return frozenset((self.folder / SEEN).read_text().split())
        except OSError as error:
            raise CorruptPackage(f"Expected {SEEN} in the package. Received: {error.strerror}.") from error

    def predict(self, pixels: NDArray[np.uint8], *, explain: bool = False, alone: bool = True) -> list[Prediction]:
        """Answer pixels (N, S, S, 3) uint8, one Prediction each; with `explain` each says where in the picture it comes from.

        `alone`: nobody else asks now.

        Raises:
            ExplainUnavailable: this network has no place for each of its features.
        """
        if explain and self._head is None:
            raise ExplainUnavailable(
                "Expected a network whose last layers are global pooling and one linear layer. Received: "
                f"explain for {self.manifest['config']['model']}, which has others.",
            )
        outputs = ("logits", "features", "activation") if explain else ("logits", "features")
        logits, features, *maps = self._engine.run(outputs, pixels, alone=alone)
        probabilities = self.probabilities(logits)
        confidence, distance = probabilities.max(axis=1), self._bank.distances(features)
        reasons = self.calibration.reasons(confidence, distance)
        predictions = []
        for row, (odds, reason) in enumerate(zip(probabilities, reasons, strict=True)):
            best = int(odds.argmax())
            predictions.append(Prediction(
                label=self.labels[best] if reason is None else None, reason=reason, confidence=float(confidence[row]),
                probabilities={label: float(value) for label, value in zip(self.labels, odds, strict=True)},
                distance=float(distance[row]),
                activation=class_activation(maps[0][row], self._head, best) if maps and self._head is not None else None,
            ))
        return predictions

    def probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """logits (N, C) -> probabilities (N, C), calibrated, as predictions have them."""
        return softmax(logits, self.calibration.temperature)

    def predict_file(self, path: Path) -> Prediction:
        """Decode, preprocess and answer one picture file, in this process.

        Raises:
            BadImage, UnsupportedType, TooLarge: as images.decode.
        """
        return self.predict(self.preprocess.pixels_of(path.read_bytes())[np.newaxis])[0]

    def golden(self) -> tuple[list[Path], NDArray[np.float32]]:
        """The golden pictures (N files), and the logits (N, C) float32 that the graph answered to them when it was packaged."""
        logits = np.load(self.folder / "golden" / "logits.npy", allow_pickle=False)
        return sorted((self.folder / "golden").glob("*.image")), logits

    def _self_test(self) -> None:
        pictures, expected = self.golden()
        # One by one: a batch would leave its memory behind. Alone and in company by turns: both ways are tested and warm then.
        received = np.concatenate([
            self.logits(self.preprocess.pixels_of(picture.read_bytes())[np.newaxis], alone=number % 2 == 0)
            for number, picture in enumerate(pictures)
        ])
        if received.shape != expected.shape or received.shape[1] != len(self.labels):
            shape = (*expected.shape[:1], len(self.labels))
            raise CorruptPackage(f"Expected golden logits of shape {shape}. Received: {received.shape}.")
        worst = off(received, expected)
        if not worst <= self.tolerance:
            raise CorruptPackage(f"Expected the golden logits to {self.tolerance}. Received: one that is {worst:.2g} off.")


def off(received: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """The largest difference of logits, as a share of the largest logit that was expected (at least 1)."""
    return float(np.abs(received - expected).max()) / max(1.0, float(np.abs(expected).max()))


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
