"""quantisation: eight bits answer nearly as the network does, and are served only where they are as good and quicker."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from catdog import export, quantisation
from catdog.models.classifier import Classifier, Normalise


def small(joined: nn.Module) -> Classifier:
    """Three convolutions, joined by something, pooled."""
    torch.manual_seed(0)
    convolutions = nn.Conv2d(3, 16, 3, 2, 1), joined, nn.Conv2d(16, 32, 3, 2, 1), joined, nn.Conv2d(32, 32, 1), joined
    backbone = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Classifier(Normalise((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), backbone, nn.Linear(32, 3))


def pixels(images: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (images, 32, 32, 3), dtype=np.uint8)


def answers(graph: Path, *outputs: str) -> list[NDArray[np.float32]]:
    return list(onnxruntime.InferenceSession(graph).run(list(outputs), {"pixels": pixels(20, seed=1)}))


def test_eight_bits_answer_nearly_as_the_network_does_and_say_where_they_look(tmp_path: Path) -> None:
    export.to_onnx(small(nn.ReLU6()), tmp_path / "float32.onnx", image_size=32)
    quantisation.quantise(tmp_path / "float32.onnx", pixels(40), tmp_path / "int8.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["float32.onnx", "int8.onnx"]
    weights = [one for one in onnx.load(tmp_path / "int8.onnx").graph.initializer if one.data_type == onnx.TensorProto.INT8]
    assert len([one for one in weights if len(one.dims) == 4]) == 3
    assert all(np.abs(onnx.numpy_helper.to_array(one).astype(int)).max() <= 64 for one in weights), "seven bits: no sum overflows"
    exact, rounded = (answers(tmp_path / f"{name}.onnx", "logits", "features", "activation") for name in ("float32", "int8"))
    for one, other in zip(exact, rounded, strict=True):
        assert 0 < np.abs(one - other).max() < 0.1 * np.abs(one).max()
    np.testing.assert_allclose(rounded[2].mean(axis=(2, 3)), rounded[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("joined", "obstacle"), [(nn.ReLU(), None), (nn.SiLU(), "Sigmoid"), (nn.Hardswish(), "HardSwish")])
def test_networks_that_would_not_be_quicker_are_known_by_their_layers(tmp_path: Path, joined: nn.Module, obstacle: str | None) -> None:
    export.to_onnx(small(joined), tmp_path / "float32.onnx", image_size=32)
    found = quantisation.obstacle(tmp_path / "float32.onnx")
    assert found is None if obstacle is None else obstacle in (found or "")


def test_a_network_that_goes_on_behind_its_pooling_has_no_activation(tmp_path: Path) -> None:
    class Behind(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            return features.tanh()

    for behind, outputs in ((nn.Identity(), ["logits", "features", "activation"]), (Behind(), ["logits", "features"])):
        network = small(nn.ReLU())
        network.backbone = nn.Sequential(network.backbone, behind)
        export.to_onnx(network, tmp_path / "model.onnx", image_size=32)
        assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
        assert [output.name for output in onnxruntime.InferenceSession(tmp_path / "model.onnx").get_outputs()] == outputs


@pytest.mark.parametrize(("lost", "won", "taken", "served", "why"), [
    (0, 0, (2.0, 1.0), "int8", "2.0 times as quick"), (1, 1, (2.0, 1.0), "int8", "as good"),
    (2, 0, (2.0, 1.0), "float32", "2 of val's 100 pictures wrongly"), (0, 3, (2.0, 1.0), "float32", "3 of val's 100 otherwise"),
    (0, 0, (1.1, 1.0), "float32", "1.1 times as quick"),
])
def test_eight_bits_are_served_where_they_are_as_good_and_quicker(
    lost: int, won: int, taken: tuple[float, float], served: str, why: str,
) -> None:
    """Of 100 pictures one may be lost, and two be answered otherwise."""
    target = np.tile([0, 1], 50)
    right = np.where(np.eye(2)[target] == 1, 3.0, -3.0).astype(np.float32)
    exact, rounded = right.copy(), right.copy()
    for wrong, there in ((rounded, slice(lost)), (exact, slice(50, 50 + won))):  # of pictures on the edge
        exact[there] *= 0.01
        rounded[there] *= 0.01
        wrong[there] *= -1
    choice = quantisation.choose(exact, rounded, target, milliseconds=taken)
    assert choice.served == served and why in choice.reason
    assert choice.accuracy == {"float32": 1 - won / 100, "int8": 1 - lost / 100}
    assert choice.milliseconds == dict(zip(("float32", "int8"), taken, strict=True)) and choice.agreement == 1 - (lost + won) / 100


def test_logits_that_lose_their_likeness_are_not_served_even_with_the_same_answers() -> None:
    exact = np.array([[2.0, 1.0], [1.0, 2.0], [9.0, 1.0], [1.0, 9.0]], np.float32)
    rounded = np.array([[9.0, 1.0], [1.0, 9.0], [2.0, 1.0], [1.0, 2.0]], np.float32)
    choice = quantisation.choose(exact, rounded, np.array([0, 1, 0, 1]), milliseconds=(2.0, 1.0))
    assert choice.agreement == 1 and choice.served == "float32" and "alike" in choice.reason
