"""config: every default filled in, every refusal names its field."""

from pathlib import Path
from typing import Any

import pytest

from catdog.config import TrainConfig
from catdog.errors import BadConfig

DATASET = "ds_" + "0" * 32


def test_every_field_has_a_sentence() -> None:
    for name, field in TrainConfig.model_fields.items():
        assert field.description and field.description.endswith("."), name


def test_the_default_trains_the_head_of_a_pretrained_network() -> None:
    config = TrainConfig.parse({"dataset": DATASET})
    assert (config.model, config.weights, config.trainable, config.image_size) == ("efficientnet_lite0", "imagenet", "head", 224)


def test_a_network_without_weights_is_trained_whole() -> None:
    config = TrainConfig.parse({"dataset": DATASET, "model": "unet"})
    assert (config.weights, config.trainable) == ("none", "all")
    assert TrainConfig.parse({"dataset": DATASET, "model": "resnet18", "weights": "none"}).trainable == "all"


def test_pictures_are_varied_where_the_whole_network_learns_and_nothing_else_is_done_to_them_unasked() -> None:
    head, whole = TrainConfig.parse({"dataset": DATASET}), TrainConfig.parse({"dataset": DATASET, "model": "unet"})
    assert (head.augment, whole.augment) == ("none", "default")
    for config in (head, whole):
        assert (config.geometry, config.balance) == ("resize_crop", "natural")
        assert (config.n_train, config.n_val, config.n_test) == (None, None, None)


def test_augmentation_of_a_head_is_refused_with_the_way_out() -> None:
    with pytest.raises(BadConfig, match="computed only once") as caught:
        TrainConfig.parse({"dataset": DATASET, "augment": "light"})
    assert caught.value.field == "augment" and caught.value.remedy == "Set augment to none, or trainable to all."
    assert TrainConfig.parse({"dataset": DATASET, "augment": "light", "trainable": "all"}).augment == "light"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"dataset": "../../etc/passwd"}, "dataset"),
        ({"dataset": None}, "dataset"),
        ({"model": "resnet19"}, "model"),
        ({"modle": "resnet18"}, "modle"),
        ({"epochs": 0}, "epochs"),
        ({"epochs": "many"}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": -1}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"loss": "hinge"}, "loss"),
        ({"image_size": 4}, "image_size"),
        ({"model": "unet", "weights": "imagenet"}, "weights"),
        ({"weights": "none", "trainable": "head"}, "trainable"),
        ({"geometry": "squeeze"}, "geometry"),
        ({"augment": "wild"}, "augment"),
        ({"balance": "fair"}, "balance"),
        ({"n_train": 1}, "n_train"),
        ({"n_val": 0}, "n_val"),
        ({"n_test": -1}, "n_test"),
        ({"publish": {"alias": "../x"}}, "publish.alias"),
        ({"publish": {"promote": "maybe"}}, "publish.promote"),
    ],
)
def test_what_cannot_work_is_refused_by_its_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(BadConfig) as caught:
        TrainConfig.parse({"dataset": DATASET, **fields})
    assert caught.value.field == field
    assert "Received" in caught.value.message and caught.value.remedy


@pytest.mark.parametrize("fields", [None, [], "x", 3])
def test_what_is_no_object_is_refused(fields: Any) -> None:
    with pytest.raises(BadConfig):
        TrainConfig.parse(fields)


def test_it_comes_back_from_a_run_folder_the_same(tmp_path: Path) -> None:
    config = TrainConfig.parse({"dataset": DATASET, "seed": 5})
    config.write(tmp_path / "run")
    assert TrainConfig.read(tmp_path / "run") == config


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"config\.json"):
        TrainConfig.read(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BadConfig, match=r"config\.json"):
        TrainConfig.read(tmp_path)
