"""models: every name builds and answers, pretrained weights give what their makers' networks give, the U-Net uses its decoder."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from catdog import catalogue, weights
from catdog.catalogue import NETWORKS, Network
from catdog.errors import BadConfig, WeightsUnavailable
from catdog.images import Preprocess, decode
from catdog.models import Classifier, build, torchvision_networks, unet

LABELS = ("cat", "dog", "rabbit")
LARGE = 15_000_000
"""Parameters. Making up random numbers for more costs seconds: `make test` tries such networks on torch's meta device only."""
LARGER = [pytest.param(network, id=network.name) for network in NETWORKS.values() if network.parameters > LARGE]
REAL = [
    pytest.param(network, id=network.name, marks=[pytest.mark.long] if network.parameters > LARGE else [])
    for network in NETWORKS.values()
]
UNUSUAL_SIZE = [pytest.param(network, id=network.name) for network in NETWORKS.values() if network.multiple > 1]
ABOVE_FLOOR = [pytest.param(network, id=network.name) for network in NETWORKS.values() if network.smallest > catalogue.FLOOR]
ONE_A_FAMILY = [
    pytest.param(min((n for n in NETWORKS.values() if n.family == family), key=lambda n: n.parameters), id=family)
    for family in dict.fromkeys(network.family for network in NETWORKS.values())
]


class WithoutMemory(TorchFunctionMode):
    """Parameters that are made here lie on torch's meta device: the shape of every step is real, but there are no numbers."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None,
    ) -> Any:
        # Only what torch.empty makes: RegNet computes its widths with tensors that must have numbers.
        return func(*args, **(kwargs or {}) | ({"device": "meta"} if func is torch.empty else {}))


def make(name: str, image_size: int, *, seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    return build(name, labels=LABELS, weights="none", image_size=image_size, weights_folder=None)


def random_pixels(images: int, side: int) -> Tensor:
    return torch.randint(0, 256, (images, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """So little is computed here that a second thread only waits for the first."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def parameters_as_in_the_catalogue(classifier: Classifier, network: Network) -> int:
    """Counted as torchvision counts: for its own head, at the size the network is made for, with Inception's auxiliary output."""
    count = sum(parameter.numel() for parameter in classifier.backbone.parameters())
    assert isinstance(classifier.head, nn.Linear)
    features = classifier.head.in_features
    if network.family == "vit":  # it was built at its smallest size: one position for each patch
        count += ((network.image_size // network.multiple) ** 2 - (network.smallest // network.multiple) ** 2) * features
    if network.family == "inception":
        count += 3_326_696
    return count + (features + (network.family != "maxvit")) * (1000 if network.weights else 2)  # MaxViT's head has no bias


@pytest.mark.parametrize("network", REAL)
def test_every_name_answers_two_pictures_with_one_number_per_label(network: Network) -> None:
    classifier = make(network.name, network.smallest)
    assert classifier.training
    pixels = random_pixels(2, network.smallest)
    with torch.no_grad():
        features = classifier.eval().features(pixels)
        logits = classifier.head(features)
    assert features.shape == (2, classifier.head.in_features)
    assert logits.shape == (2, len(LABELS))
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    assert parameters_as_in_the_catalogue(classifier, network) == network.parameters


@pytest.mark.parametrize("network", LARGER)
def test_every_larger_name_has_one_output_per_label(network: Network) -> None:
    """On the meta device: the code and the shapes are those of a real forward, memory and arithmetic are left out."""
    with WithoutMemory():
        classifier = make(network.name, network.smallest)
    assert classifier.to("meta")(random_pixels(2, network.smallest).to("meta")).shape == (2, len(LABELS))
    assert parameters_as_in_the_catalogue(classifier, network) == network.parameters


def backbone_at(network: Network, side: int) -> None:
    """Build a network for a size that build() would refuse, and run it."""
    with WithoutMemory():
        if network.family == "unet":
            backbone, _ = unet.build()
        else:
            backbone, _ = torchvision_networks.build(network.name, family=network.family, image_size=side, pretrained=None)
    backbone.to("meta")(torch.empty(2, 3, side, side, device="meta"))


@pytest.mark.parametrize("network", ABOVE_FLOOR)
def test_a_network_cannot_do_less_than_its_smallest_size(network: Network) -> None:
    # MaxViT halves, rounding up, five times: 221 to 224 give the same maps, and it is offered only the even one.
    step = 4 if network.family == "maxvit" else 1
    with pytest.raises((RuntimeError, ValueError, AssertionError)):
        backbone_at(network, network.smallest - step)


@pytest.mark.parametrize("network", UNUSUAL_SIZE)
def test_a_network_cannot_do_a_size_between_its_multiples(network: Network) -> None:
    backbone_at(network, network.smallest + network.multiple)
    for side in (network.smallest + 1, network.smallest + network.multiple // 2):
        with pytest.raises((RuntimeError, ValueError, AssertionError)):
            backbone_at(network, side)


@pytest.mark.parametrize("name", ["unet", "efficientnet_lite0", "resnet18"])
def test_the_same_seed_gives_the_same_network(name: str) -> None:
    first, second, other = (make(name, 32, seed=seed).state_dict() for seed in (7, 7, 8))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])
    assert {key.split(".")[0] for key in first} == {"normalise", "backbone", "head"}


def test_every_block_of_the_unet_is_used() -> None:
    """The workshop's own pooled the first block's map: encoder and decoder were there, cost time, and decided nothing."""
    classifier = make("unet", 32)
    classifier(random_pixels(4, 32))[:, 0].sum().backward()
    dead = [name for name, parameter in classifier.backbone.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert dead == []
    ups = [block for block in classifier.backbone.modules() if isinstance(block, unet.Up)]
    assert len(ups) == 4
    for up in ups:
        gradient = up.convolve[0].weight.grad
        assert isinstance(gradient, Tensor)
        skip, enlarged = gradient.chunk(2, dim=1)
        assert skip.any()
        assert enlarged.any()


def test_the_unet_pools_the_last_map_of_its_decoder() -> None:
    network = make("unet", 32).backbone.eval()
    assert isinstance(network, unet.UNet)
    assert [block.out_channels for block in network.modules() if isinstance(block, nn.Conv2d)][:10:2] == [64, 128, 256, 512, 1024]
    seen: list[Tensor] = []
    network.up4.register_forward_hook(lambda *call: seen.append(call[-1]))
    with torch.no_grad():
        features = network(torch.randn(2, 3, 32, 32))
    torch.testing.assert_close(features, seen[0].mean(dim=(2, 3)))
    assert network.dropout.p == 0.3
    assert network.train()(torch.randn(4, 3, 32, 32)).eq(0).any()


def test_the_first_layer_normalises_each_channel() -> None:
    classifier = build("resnet18", labels=LABELS, weights="none", image_size=32, weights_folder=None)
    pixels = torch.tensor([0, 255, 51], dtype=torch.uint8).expand(1, 2, 2, 3)
    assert classifier.normalise(pixels)[0, :, 0, 0].tolist() == pytest.approx([-1, 1, -0.6])
    assert classifier.normalise(pixels).shape == (1, 3, 2, 2)


# Pretrained weights. No file can be fetched here, so a network of torchvision's own making is written as its weights file would be,
# and what we build from the file must answer as that network does.


def old_densenet(state: dict[str, Tensor]) -> None:
    for name in list(state):
        for part in ("norm", "conv"):
            for number in "12":
                new, old = f".{part}{number}.", f".{part}.{number}."
                if "denselayer" in name and new in name:
                    state[name.replace(new, old)] = state.pop(name)


def old_vit(state: dict[str, Tensor]) -> None:
    for name in list(state):
        if ".mlp." in name:
            state[name.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2.")] = state.pop(name)
    for version in state._metadata.values():  # type: ignore[attr-defined]
        version["version"] = 1


def unchanged(state: dict[str, Tensor]) -> None:
    """As it is."""


@pytest.mark.filterwarnings("ignore:auxiliary heads in the pretrained googlenet")
@pytest.mark.parametrize(
    ("name", "options", "age"),
    [
        ("resnet18", {}, unchanged),
        ("densenet121", {}, old_densenet),
        ("mnasnet0_5", {}, unchanged),
        ("googlenet", {"aux_logits": True, "transform_input": True, "init_weights": False}, unchanged),
        ("inception_v3", {"aux_logits": True, "transform_input": True, "init_weights": False}, unchanged),
        ("vit_b_32", {}, old_vit),
        ("shufflenet_v2_x0_5", {}, unchanged),
        ("mobilenet_v3_small", {}, unchanged),
        ("efficientnet_b0", {}, unchanged),
        ("regnet_y_400mf", {}, unchanged),
    ],
)
def test_pretrained_weights_give_what_torchvision_gives(
    name: str, options: dict[str, bool], age: Callable[[dict[str, Tensor]], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, weights=None, **options).eval()
    head = [module for module in theirs.modules() if isinstance(module, nn.Linear)][-1]
    nn.init.normal_(head.weight)  # ViT begins with a head of zeros
    side = NETWORKS[name].image_size if NETWORKS[name].fixed_size else max(NETWORKS[name].smallest, 64)
    state = theirs.state_dict()
    age(state)
    published(name, state, tmp_path, monkeypatch)
    ours = build(name, labels=LABELS, weights="imagenet", image_size=side, weights_folder=tmp_path).eval()
    pixels = random_pixels(2, side)
    preset = torchvision.models.get_model_weights(name).DEFAULT.transforms(crop_size=side, resize_size=side)
    with torch.no_grad():
        expected = theirs(preset(pixels.permute(0, 3, 1, 2)))
        assert expected.std() > 0
        torch.testing.assert_close(head(ours.features(pixels)), expected, atol=1e-4, rtol=1e-3)


def test_squeezenets_features_are_what_its_convolution_saw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.get_model("squeezenet1_1", weights=None).eval()
    published("squeezenet1_1", theirs.state_dict(), tmp_path, monkeypatch)
    ours = build("squeezenet1_1", labels=LABELS, weights="imagenet", image_size=64, weights_folder=tmp_path).eval()
    pixels = random_pixels(2, 64)
    with torch.no_grad():
        maps = theirs.features(ours.normalise(pixels))
        torch.testing.assert_close(ours.features(pixels), maps.mean(dim=(2, 3)))


def published(name: str, state: dict[str, Tensor], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a weights file and let the catalogue know its hash."""
    network = NETWORKS[name]
    assert network.weights is not None
    path = weights.path(name, folder)
    torch.save(state, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    monkeypatch.setitem(NETWORKS, name, dataclasses.replace(network, weights=dataclasses.replace(network.weights, sha256=digest)))
    return path


def test_weights_that_do_not_fit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = torchvision.models.get_model("resnet18", weights=None).state_dict()
    del state["layer1.0.bn1.running_mean"]
    path = published("resnet18", state, tmp_path, monkeypatch)
    with pytest.raises(WeightsUnavailable, match=r"(?s)Expected the weights of this network. .*layer1.0.bn1.running_mean") as caught:
        build("resnet18", labels=LABELS, weights="imagenet", image_size=64, weights_folder=tmp_path)
    assert str(path) in caught.value.message


class Bomb:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_a_weights_file_never_runs_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published("resnet18", {"fc.weight": Bomb(tmp_path / "ran")}, tmp_path, monkeypatch)  # type: ignore[dict-item]
    with pytest.raises(WeightsUnavailable, match=r"Expected a state dict of tensors. Received: .*UnpicklingError"):
        build("resnet18", labels=LABELS, weights="imagenet", image_size=64, weights_folder=tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2]])
def test_a_file_that_holds_something_else_is_refused(content: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published("resnet18", content, tmp_path, monkeypatch)  # type: ignore[arg-type]
    with pytest.raises(WeightsUnavailable, match="which holds something else"):
        build("resnet18", labels=LABELS, weights="imagenet", image_size=64, weights_folder=tmp_path)


@pytest.mark.parametrize("folder", [None, Path("no/such/folder")])
def test_weights_that_are_not_here_are_refused_before_anything_is_built(folder: Path | None) -> None:
    before = torch.get_rng_state()
    with pytest.raises(WeightsUnavailable):
        build("resnet18", labels=LABELS, weights="imagenet", image_size=224, weights_folder=folder)
    assert torch.equal(torch.get_rng_state(), before)  # a network that is built draws random numbers


def test_what_the_catalogue_refuses_is_not_built() -> None:
    with pytest.raises(BadConfig, match="multiple of 16"):
        make("unet", 40)
    with pytest.raises(BadConfig, match=r"at least two labels. Received: \['cat'\]"):
        build("unet", labels=["cat"], weights="none", image_size=32, weights_folder=None)


@pytest.fixture(scope="module")
def lite() -> Classifier:
    return build("efficientnet_lite0", labels=LABELS, weights="imagenet", image_size=224, weights_folder=None).eval()


@pytest.fixture(scope="module")
def published_lite() -> EfficientNet:
    """The network as its package builds it, with its 1000 outputs."""
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights.verified("efficientnet_lite0", None), weights_only=True))
    return network.eval()


def test_the_default_network_has_the_published_features(lite: Classifier, published_lite: EfficientNet) -> None:
    pixels = random_pixels(2, 224)
    images = (pixels.permute(0, 3, 1, 2).float() - 127) / 128
    with torch.no_grad():
        torch.testing.assert_close(published_lite._fc(lite.features(pixels)), published_lite(images), atol=1e-4, rtol=1e-4)


def test_the_default_network_knows_cats_and_dogs(
    lite: Classifier, published_lite: EfficientNet, shared_data: Callable[..., Path],
) -> None:
    files = sorted(shared_data("dogs_vs_cats", "test").glob("*.jpg"))[::8]
    preprocess = Preprocess(224, **catalogue.preprocess("efficientnet_lite0", "imagenet"))
    pixels = torch.from_numpy(np.stack([preprocess.pixels(decode(file.read_bytes())) for file in files]))
    with torch.no_grad():
        answers = published_lite._fc(lite.features(pixels)).argmax(1).tolist()
    kinds = {"cat": range(281, 288), "dog": range(151, 276)}  # of ImageNet's 1000 labels; wild ones too
    right = [answer in kinds[file.name[:3]] for answer, file in zip(answers, files, strict=True)]
    assert len(files) == 25
    assert sum(right) >= 21


def test_a_graph_is_the_network_and_nothing_of_how_it_was_trained_or_where(tmp_path: Path) -> None:
    import onnx

    from catdog.export import to_onnx

    trained = make("mobilenet_v3_small", 32).to(memory_format=torch.channels_last)
    to_onnx(trained, tmp_path / "model.onnx", image_size=32)
    nodes = onnx.load(str(tmp_path / "model.onnx")).graph.node
    assert not {"Gather", "Range", "Shape"} & {node.op_type for node in nodes}, "places that are worked out anew for each call"
    assert not any(node.metadata_props for node in nodes)
    assert str(Path(__file__).parent.parent).encode() not in (tmp_path / "model.onnx").read_bytes()


@pytest.mark.long
@pytest.mark.parametrize("network", ONE_A_FAMILY)
def test_every_family_can_be_exported(network: Network, tmp_path: Path) -> None:
    import onnxruntime

    from catdog.export import to_onnx

    classifier = make(network.name, network.smallest).eval()
    to_onnx(classifier, tmp_path / "model.onnx", image_size=network.smallest)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for images in (1, 3):
        pixels = random_pixels(images, network.smallest)
        with torch.no_grad():
            expected = classifier(pixels)
        torch.testing.assert_close(torch.from_numpy(session.run(["logits"], {"pixels": pixels.numpy()})[0]), expected, atol=1e-4, rtol=1e-3)
