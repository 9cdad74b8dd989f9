"""catdog.models: networks that another installed package brings along, by entry points."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from catdog import catalogue, models
from catdog.config import TrainConfig
from catdog.errors import BadConfig
from tests.brought import bring

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(bring(tmp_path)))
    return tmp_path


def build(name: str, *, labels: tuple[str, ...] = ("cat", "dog"), image_size: int = 16) -> models.Classifier:
    return models.build(name, labels=labels, weights="none", image_size=image_size, weights_folder=None)


def test_their_names_are_known_without_running_their_code(site: Path) -> None:
    (site / "brought_networks.py").write_text("raise RuntimeError('nobody asked')")
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from catdog import catalogue; from catdog.config import TrainConfig; "
        "network = catalogue.brought()['whole']; assert network.package == 'brought-networks', network; "
        "config = TrainConfig.parse({'dataset': 'ds_' + '0' * 32, 'model': 'whole'}); "
        "assert (config.weights, config.trainable, config.image_size) == ('none', 'all', 224), config; "
        "assert 'resnet18' not in catalogue.brought(), 'a name of the catalogue is the catalogue\\'s'; "
        "assert not {'torch', 'brought_networks'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(site)], check=True)


def test_it_needs_no_pretrained_weights_and_has_none() -> None:
    with pytest.raises(BadConfig, match="for which there are none"):
        TrainConfig.parse({"dataset": "ds_" + "0" * 32, "model": "whole", "weights": "imagenet"})
    with pytest.raises(BadConfig, match="Expected the name of a network"):
        catalogue.find("whale")


def test_logits_are_answers_and_features_get_a_head() -> None:
    pixels = torch.zeros((2, 16, 16, 3), dtype=torch.uint8)
    whole, features = build("whole"), build("features", labels=("a", "b", "c"))
    assert isinstance(whole.head, nn.Identity) and whole(pixels).shape == (2, 2)
    assert isinstance(features.head, nn.Linear) and features.head.in_features == 4 and features(pixels).shape == (2, 3)
    assert whole.training and features.training and all(module.training for module in whole.modules())
    assert type(build("resnet18", image_size=32).backbone).__name__ == "ResNet"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("broken", "raises RuntimeError: no such luck"), ("none", "gives a str"), ("missing", "No module named 'no_such_module'"),
        ("pair", "a tuple"), ("fixed", "takes images of 16 pixels"),
    ],
)
def test_what_does_not_do_is_said_in_a_sentence(name: str, expected: str) -> None:
    with pytest.raises(BadConfig, match=expected) as caught:
        build(name)
    assert caught.value.field == "model" and caught.value.remedy
