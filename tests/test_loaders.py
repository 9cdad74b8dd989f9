"""loaders: pixels are serving's, features are the graph's, batches leave nothing out."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from catdog import loaders
from catdog.config import TrainConfig
from catdog.datasets import Dataset
from catdog.images import Preprocess, decode
from catdog.inference import Predictor
from catdog.loaders import Split, shuffled
from tests.living import Finished

PREPROCESS = Preprocess(32)


@pytest.fixture(scope="module")
def dataset(finished: Finished) -> Dataset:
    return Dataset.open(finished.settings.datasets / TrainConfig.read(finished.run).dataset)


@given(images=st.integers(1, 60), batch_size=st.integers(1, 20), seed=st.integers(0, 100), epoch=st.integers(0, 5))
def test_every_image_once_and_no_lonely_last_one(images: int, batch_size: int, seed: int, epoch: int) -> None:
    split = Split(torch.zeros(images, dtype=torch.int64), torch.tensor)
    order = shuffled(images, seed=seed, epoch=epoch)
    batches = split.plan(batch_size, order)
    assert [position for batch in batches for position in batch] == order
    assert sorted(order) == list(range(images))
    if batch_size > 1 and images > 1:
        assert all(1 < len(batch) <= batch_size + 1 for batch in batches)
    assert order == shuffled(images, seed=seed, epoch=epoch)


@given(skip=st.integers(0, 5))
def test_skipping_gives_the_rest_of_the_same_epoch(skip: int) -> None:
    split = Split(torch.arange(17), torch.tensor)
    order = shuffled(17, seed=1, epoch=2)
    whole = [target.tolist() for _, target in split.batches(4, order=order)]
    assert [target.tolist() for _, target in split.batches(4, order=order, skip=skip)] == whole[skip:]
    assert all(torch.equal(inputs, target) for inputs, target in split.batches(4, order=order))


def test_an_error_in_a_picture_reaches_who_asks(dataset: Dataset, tmp_path: Path) -> None:
    def broken(positions: object) -> torch.Tensor:
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        list(Split(torch.zeros(4, dtype=torch.int64), broken).batches(2))


def test_pixels_are_what_serving_sees_and_targets_follow_the_labels(dataset: Dataset) -> None:
    split = loaders.pixels(dataset, "train", PREPROCESS, threads=2)
    records = dataset.split("train")
    fetched = split.fetch(range(len(records)))
    assert fetched.dtype == torch.uint8 and fetched.shape == (len(records), 32, 32, 3)
    for position, record in enumerate(records):
        assert np.array_equal(fetched[position].numpy(), PREPROCESS.pixels(decode(dataset.path(record).read_bytes())))
        assert dataset.labels[split.targets[position]] == record.label == record.name.partition(".")[0]


def test_features_are_the_graphs_for_every_image_in_order(dataset: Dataset, finished: Finished, tmp_path: Path) -> None:
    graph = finished.run / "package" / "model.onnx"
    path = tmp_path / "val.safetensors"
    said = list(loaders.compute_features(dataset, "val", graph=graph, preprocess=PREPROCESS, path=path, threads=2, phase="features"))
    split, records = loaders.features(path), dataset.split("val")
    assert said[-1].step == said[-1].steps == len(records)
    predictor = Predictor.load(finished.run / "package")
    assert torch.equal(split.targets, torch.tensor([dataset.target(record) for record in records]))
    for position, record in enumerate(records):
        pixels = PREPROCESS.pixels(decode(dataset.path(record).read_bytes()))[np.newaxis]
        (alone,) = predictor._session.run(["features"], {"pixels": pixels})
        assert np.allclose(split.fetch([position]).numpy(), alone, atol=1e-4)


def test_features_that_were_not_finished_are_not_there(dataset: Dataset, finished: Finished, tmp_path: Path) -> None:
    steps = loaders.compute_features(
        dataset, "train", graph=finished.run / "package" / "model.onnx", preprocess=PREPROCESS, path=tmp_path / "train.safetensors",
        threads=1, phase="features",
    )
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    assert list(tmp_path.iterdir()) == []
