"""catalogue: equal to torchvision, refuses what cannot be built, never imports torch."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torchvision
from torchvision.transforms import InterpolationMode

from catdog import catalogue
from catdog.catalogue import FLOOR, NETWORKS
from catdog.errors import BadConfig

FROM_TORCHVISION = torchvision.models.list_models(module=torchvision.models)


def test_the_names_are_torchvisions_and_ours() -> None:
    assert set(NETWORKS) == {"efficientnet_lite0", "unet", *FROM_TORCHVISION}
    assert [network.name for network in NETWORKS.values()] == list(NETWORKS)


@pytest.mark.parametrize("name", FROM_TORCHVISION)
def test_a_row_says_what_torchvision_says(name: str) -> None:
    theirs = torchvision.models.get_model_weights(name).DEFAULT
    preset = theirs.transforms()
    network, weights = NETWORKS[name], NETWORKS[name].weights
    assert weights is not None
    assert network.image_size == preset.crop_size[0]
    assert weights.crop == pytest.approx(preset.crop_size[0] / preset.resize_size[0])
    assert InterpolationMode(weights.interpolation) == preset.interpolation
    assert weights.url == theirs.url
    assert theirs.url.endswith("/" + weights.file)
    assert weights.size_bytes == pytest.approx(theirs.meta["_file_size"] * 2**20, abs=1)
    # The same pattern with which torch.hub finds the hash in a file name.
    assert (found := re.search(r"-([a-f0-9]*)\.pth$", theirs.url)) and weights.sha256 == found[1]
    assert len(weights.sha256) >= 8
    assert network.parameters == theirs.meta["num_params"]
    assert ("CC-BY-NC" in weights.licence) == ("SWAG" in theirs.meta.get("license", ""))
    undone_inside = name in ("googlenet", "inception_v3")  # test_models.py compares the result
    assert list(weights.mean) == ([0.5] * 3 if undone_inside else preset.mean if isinstance(preset.mean, list) else list(preset.mean))
    assert list(weights.std) == ([0.5] * 3 if undone_inside else preset.std if isinstance(preset.std, list) else list(preset.std))


@pytest.mark.parametrize("network", NETWORKS.values(), ids=lambda network: network.name)
def test_what_a_network_is_made_for_and_its_smallest_size_are_accepted_and_less_is_not(network: catalogue.Network) -> None:
    """That the network itself can do no less is shown in test_models.py."""
    weights = "imagenet" if network.weights else "none"
    catalogue.check(network.name, weights=weights, image_size=network.image_size)
    catalogue.check(network.name, weights="none", image_size=network.smallest)
    assert network.smallest >= FLOOR
    with pytest.raises(BadConfig, match=rf"at least image_size={network.smallest}. Received: image_size={network.smallest - 1}") as caught:
        catalogue.check(network.name, weights="none", image_size=network.smallest - 1)
    assert caught.value.field == "image_size"


@pytest.mark.parametrize(
    ("name", "weights", "image_size", "field", "message", "remedy"),
    [
        ("efficientnet_light0", "none", 224, "model", "Received: model='efficientnet_light0'", "efficientnet_lite0"),
        ("ResNet18", "none", 224, "model", "Received: model='ResNet18'", "resnet18"),
        ("zzz", "none", 224, "model", "Received: model='zzz'", "catdog models list"),
        ("unet", "imagenet", 128, "weights", "weights=imagenet, model=unet", "Set weights to none"),
        ("unet", "coco", 128, "weights", "Received: weights='coco'", "Correct"),
        ("unet", "none", 40, "image_size", "multiple of 16. Received: image_size=40", "32 or 48"),
        ("vit_b_16", "imagenet", 32, "image_size", "fit only image_size=224. Received: image_size=32", "224, or weights to none"),
        ("vit_h_14", "none", 16, "image_size", "at least image_size=28", "28 or more"),
        ("maxvit_t", "none", 256, "image_size", "multiple of 224. Received: image_size=256", "224 or 448"),
        ("inception_v3", "imagenet", 74, "image_size", "at least image_size=75. Received: image_size=74", "75 or more"),
    ],
)
def test_a_refusal_says_what_was_expected_what_came_and_what_to_do(
    name: str, weights: str, image_size: int, field: str, message: str, remedy: str,
) -> None:
    with pytest.raises(BadConfig) as caught:
        catalogue.check(name, weights=weights, image_size=image_size)
    assert caught.value.field == field
    assert message in caught.value.message
    assert remedy in caught.value.remedy


def test_a_fixed_size_binds_only_pretrained_weights() -> None:
    catalogue.check("vit_b_16", weights="none", image_size=32)
    catalogue.check("resnet18", weights="imagenet", image_size=64)


def test_questions_about_a_name_that_is_none_do_not_raise() -> None:
    """config.py asks them before it has refused the name."""
    for name in ("no_such_network", None, ["unet"], 7):
        assert not catalogue.has_weights(name)
        assert catalogue.image_size(name) == 224
    assert catalogue.has_weights("efficientnet_lite0")
    assert not catalogue.has_weights("unet")
    assert catalogue.image_size("inception_v3") == 299


def test_preprocessing_is_what_the_weights_were_evaluated_with() -> None:
    assert catalogue.preprocess("efficientnet_lite0", "imagenet") == {"resize": "bicubic", "crop": 0.875}
    assert catalogue.preprocess("resnet50", "imagenet") == {"resize": "bilinear", "crop": pytest.approx(224 / 232)}
    assert catalogue.preprocess("resnet50", "none") == {"resize": "bicubic", "crop": 1.0}
    assert catalogue.preprocess("unet", "none") == {"resize": "bicubic", "crop": 1.0}


def test_the_licence_is_that_of_the_weights_used() -> None:
    assert catalogue.licence("efficientnet_lite0", "imagenet") == "Apache-2.0"
    assert "not for commercial use" in catalogue.licence("vit_h_14", "imagenet")
    assert catalogue.licence("vit_h_14", "none") == "no pretrained weights"


def test_catalogue_and_weights_import_no_torch() -> None:
    code = "import sys; from catdog import weights; weights.verified('efficientnet_lite0', None); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, check=False).returncode == 0
