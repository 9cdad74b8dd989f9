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


def test_a_head_has_its_augmented_views_counted_as_their_features_are_computed_once() -> None:
    assert TrainConfig.parse({"dataset": DATASET}).views == 1
    assert TrainConfig.parse({"dataset": DATASET, "augment": "light"}).views == 4
    assert TrainConfig.parse({"dataset": DATASET, "augment": "light", "trainable": "all"}).views == 1


def test_a_resumed_run_may_change_what_its_checkpoint_does_not_depend_on() -> None:
    config = TrainConfig.parse({"dataset": DATASET, "epochs": 10, "patience": 3})
    assert config.resumed({}) == config
    longer = config.resumed({"epochs": 20, "learning_rate": 0.001})
    assert (longer.epochs, longer.learning_rate, longer.patience) == (20, 0.001, 3)
    for field, value in ({"model": "resnet18"}, "model"), ({"seed": 1}, "seed"), ({"dataset": "ds_" + "1" * 32}, "dataset"):
        with pytest.raises(BadConfig, match="as in the run that is resumed") as caught:
            config.resumed(field)
        assert caught.value.field == value


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"dataset": "../../etc/passwd"}, "dataset"),
        ({"dataset": None}, "dataset"),
        ({"model": "resnet19"}, "model"),
        ({"modle": "resnet18"}, "modle"),
        ({"trainable": "stages:0"}, "trainable"),
        ({"trainable": []}, "trainable"),
        ({"best_by": "vibes"}, "best_by"),
        ({"backbone_lr": 0.1, "layer_decay": 0.5}, "layer_decay"),
        ({"head_epochs": 3}, "head_epochs"),
        ({"trainable": "all", "epochs": 3, "head_epochs": 3}, "head_epochs"),
        ({"micro_batch": 33}, "micro_batch"),
        ({"batch_size": 8, "devices": 9}, "devices"),
        ({"mixup": 0.2}, "mixup"),
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
