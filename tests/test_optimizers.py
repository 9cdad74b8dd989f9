"""optimizers: what is trained and what stays, how fast each depth learns, and what is decayed."""

from fnmatch import fnmatchcase
from typing import Any

import pytest
import torch
from torch import nn

from catdog import optimizers
from catdog.config import TrainConfig
from catdog.errors import BadConfig
from catdog.models import build

pytestmark = pytest.mark.usefixtures("one_thread")


def config(**fields: Any) -> TrainConfig:
    return TrainConfig.parse({"dataset": "ds_" + "0" * 32, "model": "unet", "learning_rate": 0.1, **fields})


def network(name: str, image_size: int = 64) -> nn.Module:
    return build(name, labels=["cat", "dog"], weights="none", image_size=image_size, weights_folder=None)


def trained(network: nn.Module) -> set[str]:
    return {name for name, parameter in network.named_parameters() if parameter.requires_grad}


STAGES = [
    ("efficientnet_lite0", 18, "_conv_stem", "_conv_head"), ("resnet18", 5, "conv1", "layer4"), ("unet", 9, "entry", "up4"),
    ("mobilenet_v3_small", 14, "features.0", "classifier"), ("vgg11", 10, "features.0", "classifier.3"),
    ("densenet121", 8, "features.conv0", "features.denseblock4"), ("squeezenet1_1", 9, "features.0", "features.12"),
]


@pytest.mark.parametrize(("name", "number", "first", "last"), STAGES, ids=[name for name, *_ in STAGES])
def test_stages_are_what_people_call_so_and_leave_no_parameter_out(name: str, number: int, first: str, last: str) -> None:
    net = network(name)
    stages = optimizers.stages(net)
    assert len(stages) == number
    assert stages[0][0].endswith(first) and stages[-1][0].endswith(last)
    prefixes = [prefix for stage in stages for prefix in stage]
    for parameter, _ in net.named_parameters():
        assert optimizers.is_head(parameter) or sum(parameter.startswith(f"{prefix}.") for prefix in prefixes) == 1, parameter


@pytest.mark.parametrize(
    ("trainable", "patterns"),
    [
        ("head", ["head.*"]), ("all", ["*"]), ("stages:1", ["head.*", "backbone.layer4.*"]),
        ("stages:2", ["head.*", "backbone.layer[34].*"]), (["backbone.layer1.*", "head.bias"], ["backbone.layer1.*", "head.bias"]),
    ],
)
def test_what_is_named_is_trained_and_nothing_else(trainable: Any, patterns: list[str]) -> None:
    net = network("resnet18")
    optimizers.freeze(net, trainable)
    names = [name for name, _ in net.named_parameters()]
    assert trained(net) == {name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)}


@pytest.mark.parametrize(
    ("trainable", "said"), [("stages:6", "at most the 5 stages"), (["head.*", "layer9.*"], "layer9.*, which match none")],
)
def test_what_matches_nothing_is_refused_with_what_there_is(trainable: Any, said: str) -> None:
    with pytest.raises(BadConfig, match=said.replace("*", r"\*")) as caught:
        optimizers.freeze(network("resnet18"), trainable)
    assert caught.value.field == "trainable" and "backbone" in caught.value.remedy


def test_frozen_normalisation_and_dropout_keep_still_and_the_rest_trains() -> None:
    net = network("resnet18")
    optimizers.freeze(net, "stages:1")
    before = {name: value.clone() for name, value in net.named_buffers()}
    optimizers.set_training(net)
    net(torch.randint(0, 255, (4, 64, 64, 3), dtype=torch.uint8))
    moved = {name for name, value in net.named_buffers() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith("backbone.layer4") for name in moved)
    optimizers.freeze(net, "all")
    optimizers.set_training(net)
    assert all(module.training for module in net.modules())


def test_each_stage_learns_slower_than_the_one_behind_it_and_vectors_are_not_decayed() -> None:
    net = network("unet")
    optimizer = optimizers.build(net, config(layer_decay=0.5))
    scale = {id(p): group["scale"] for group in optimizer.param_groups for p in group["params"]}
    named = dict(net.named_parameters())
    assert scale[id(named["head.weight"])] == 1.0
    assert scale[id(named["backbone.up4.enlarge.weight"])] == 0.5 and scale[id(named["backbone.entry.0.weight"])] == 0.5**9
    for group in optimizer.param_groups:
        assert all((p.ndim > 1) == (group["weight_decay"] > 0) for p in group["params"])
        assert group["is_head"] == all(p is named["head.weight"] or p is named["head.bias"] for p in group["params"])
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(named)


def test_the_backbone_has_its_own_rate() -> None:
    scales = {group["is_head"]: group["scale"] for group in optimizers.build(network("unet"), config(backbone_lr=0.01)).param_groups}
    assert scales == {True: 1.0, False: pytest.approx(0.1)}


def test_a_head_alone_is_all_head() -> None:
    optimizer = optimizers.build(nn.Linear(3, 2), config(backbone_lr=0.01, optimizer="sgd"))
    assert isinstance(optimizer, torch.optim.SGD)
    assert all(group["scale"] == 1.0 and group["momentum"] == 0.9 and group["nesterov"] for group in optimizer.param_groups)
