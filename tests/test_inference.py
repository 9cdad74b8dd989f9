"""inference and export: a package loads whole or not at all, and answers as the network it was made from."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from catdog import export
from catdog.errors import CorruptPackage, ExportMismatch
from catdog.files import sha256_of
from catdog.images import Preprocess
from catdog.inference import Predictor, softmax
from catdog.models import build
from tests.living import Finished


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
        assert one.confidence == max(one.probabilities.values()) == one.probabilities[one.label]
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)


@pytest.mark.parametrize("name", ["model.onnx", "weights.safetensors", "CARD.md", "golden/logits.npy", "golden/00.image"])
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


def test_an_export_that_differs_is_not_packaged(finished: Finished, tmp_path: Path) -> None:
    """A graph with another head than the classifier's: nothing is left of the package."""
    manifest = Predictor.load(finished.run / "package").manifest
    stranger = build("squeezenet1_1", labels=("cat", "dog"), weights="none", image_size=32, weights_folder=None)
    golden = sorted((finished.run / "package" / "golden").glob("*.image"))
    with pytest.raises(ExportMismatch, match="does not answer as the trained one"):
        export.package(
            tmp_path / "package", classifier=stranger, graph=finished.run / "package" / "model.onnx", golden=golden,
            preprocess=Preprocess.from_dict(manifest["preprocess"]), facts=manifest,
        )
    assert list(tmp_path.iterdir()) == []


@given(st.lists(st.lists(st.floats(-50, 50, width=32), min_size=3, max_size=3), min_size=1, max_size=4))
def test_softmax_is_a_distribution_that_keeps_the_order(rows: list[list[float]]) -> None:
    logits = np.array(rows, dtype=np.float32)
    probabilities = softmax(logits)
    assert np.allclose(probabilities.sum(axis=1), 1) and (probabilities >= 0).all()
    assert np.allclose(probabilities, softmax(logits + np.float32(1)), atol=1e-5)
    assert all(p[row.argmax()] == p.max() for p, row in zip(probabilities, logits, strict=True))
