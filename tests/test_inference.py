"""inference and export: a package loads whole or not at all, and answers as the network it was made from."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from catdog import export
from catdog.errors import CorruptPackage, ExportMismatch
from catdog.explanation import overlay
from catdog.files import sha256_of
from catdog.images import Preprocess
from catdog.inference import Predictor
from catdog.models import build
from tests.living import Finished
from tests.serving import SIZE, make_package


@pytest.fixture
def package(finished: Finished, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished.run / "package", tmp_path / "package"))


def test_a_package_says_everything_and_needs_nothing(package: Path) -> None:
    predictor = Predictor.load(package)
    assert predictor.labels == ("cat", "dog")
    assert predictor.preprocess == Preprocess(32, **{k: predictor.manifest["preprocess"][k] for k in ("resize", "crop")})
    for key in ("config", "metrics", "fingerprint", "seed", "versions", "device", "licence", "files"):
        assert predictor.manifest[key] not in (None, ""), key
    assert set(predictor.manifest["files"]) >= {"model.onnx", "weights.safetensors", "CARD.md", "golden/logits.npy", "golden/00.image"}


def test_probabilities_add_up_and_do_not_depend_on_the_company(package: Path) -> None:
    predictor = Predictor.load(package)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    together, alone = predictor.predict(pixels), [predictor.predict(pixels[n : n + 1])[0] for n in range(5)]
    for one, other in zip(together, alone, strict=True):
        assert sum(one.probabilities.values()) == pytest.approx(1)
        assert one.confidence == max(one.probabilities.values()) == one.probabilities[one.best]
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)


@pytest.mark.parametrize("name", ["model.onnx", "weights.safetensors", "CARD.md", "golden/logits.npy", "golden/00.image", "bank.npz"])
def test_a_changed_or_missing_file_is_refused(package: Path, name: str) -> None:
    data = bytearray((package / name).read_bytes())
    data[len(data) // 2] ^= 1
    (package / name).write_bytes(data)
    with pytest.raises(CorruptPackage, match=name):
        Predictor.load(package)
    (package / name).unlink()
    with pytest.raises(CorruptPackage):
        Predictor.load(package)


def test_a_network_that_answers_otherwise_is_refused_even_with_matching_hashes(package: Path) -> None:
    graph = onnx.load(package / "model.onnx")
    bias = next(initializer for initializer in graph.graph.initializer if initializer.name == "classifier.head.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.01), bias.name))
    onnx.save(graph, package / "model.onnx")
    manifest = json.loads((package / "package.json").read_text())
    manifest["files"]["model.onnx"] = sha256_of(package / "model.onnx")
    (package / "package.json").write_text(json.dumps(manifest))
    with pytest.raises(CorruptPackage, match="golden logits"):
        Predictor.load(package)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}'])
def test_what_is_no_package_is_refused(package: Path, text: str) -> None:
    (package / "package.json").write_text(text)
    with pytest.raises(CorruptPackage):
        Predictor.load(package)


def test_a_graph_that_differs_is_not_packaged(finished: Finished) -> None:
    """A graph with another head than the classifier's."""
    stranger = build("squeezenet1_1", labels=("cat", "dog"), weights="none", image_size=32, weights_folder=None)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    with pytest.raises(ExportMismatch, match="does not answer as the trained one"):
        export.check(finished.run / "package" / "model.onnx", stranger, pixels)


def test_a_picture_of_nothing_known_gets_no_label(tmp_path: Path) -> None:
    """Red and green are known. The first takes everything for one of them, the second knows no white, the third is never sure."""
    for confidence, distance, label, reason in ((0, 2, "cat", None), (0, 0.3, None, "unfamiliar"), (0.999, 2, None, "unsure")):
        predictor = Predictor.load(tmp_path / make_package(tmp_path, gain=2.0, confidence=confidence, distance=distance))
        (white,) = predictor.predict(np.full((1, SIZE, SIZE, 3), (250, 245, 250), np.uint8))
        assert (white.label, white.reason, white.decision) == (label, reason, "label" if label else "abstain")
        assert white.best == "cat" and white.confidence == white.probabilities["cat"] and white.distance > 0.3
        (red,) = predictor.predict(np.full((1, SIZE, SIZE, 3), (200, 10, 0), np.uint8))
        assert red.distance < 0.01 and (red.label is None) == (reason == "unsure")


def test_it_says_where_it_looked(tmp_path: Path) -> None:
    """Half of the picture is red, which speaks for the first label; half is green, which speaks for the second."""
    predictor = Predictor.load(tmp_path / make_package(tmp_path))
    pixels = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    pixels[:, :, : SIZE // 2, 0], pixels[:, :, SIZE // 2 :, 1] = 250, 100
    (answer,) = predictor.predict(pixels, explain=True)
    assert answer.best == "cat" and answer.activation is not None and answer.activation.shape == (SIZE, SIZE)
    assert (answer.activation[:, : SIZE // 2] == 1).all() and (answer.activation[:, SIZE // 2 :] == 0).all()
    shown = np.asarray(Image.open(io.BytesIO(overlay(pixels[0], answer.activation))))
    assert shown.shape == pixels[0].shape and (shown[:, -1] == pixels[0, :, -1]).all() and (shown[:, 0] != pixels[0, :, 0]).any()
    assert predictor.predict(pixels)[0].activation is None
