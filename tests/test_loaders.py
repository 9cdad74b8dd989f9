"""loaders: pixels are serving's, features are the graph's, batches leave nothing out."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from queue import Queue
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from catdog import loaders
from catdog.cache import Cache
from catdog.config import TrainConfig
from catdog.datasets import Dataset
from catdog.drawing import LABELS, draw_picture
from catdog.errors import Unavailable
from catdog.images import GEOMETRIES, Preprocess, decode
from catdog.inference import Predictor
from catdog.loaders import Pictures, Split, shuffled
from catdog.progress import Progress
from catdog.settings import Settings
from catdog.sources import import_folder
from tests.living import Finished

PREPROCESS = Preprocess(32)


@pytest.fixture(scope="module")
def dataset(finished: Finished) -> Dataset:
    return Dataset.open(finished.settings.datasets / TrainConfig.read(finished.run).dataset)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A data set of 24 drawn pictures, no two of one size."""
    folder = tmp_path_factory.mktemp("drawn")
    for number in range(12):
        for label in LABELS:
            picture = draw_picture(label, Random(f"{label}{number}"), 64).resize((48 + 3 * number, 70 - 2 * number))
            (folder / "pictures").mkdir(exist_ok=True)
            picture.save(folder / "pictures" / f"{label}.{number}.png")
    return import_folder(folder / "pictures", folder / "datasets", settings=Settings.load(data_dir=folder))


def identity(positions: Sequence[int], epoch: int) -> torch.Tensor:
    """Inputs that say which position and epoch they are of."""
    return torch.tensor([[position, epoch] for position in positions])


@given(images=st.integers(1, 60), batch_size=st.integers(1, 20), seed=st.integers(0, 100), epoch=st.integers(0, 5))
def test_every_image_once_and_no_lonely_last_one(images: int, batch_size: int, seed: int, epoch: int) -> None:
    split = Split(torch.zeros(images, dtype=torch.int64), identity)
    order = shuffled(images, seed=seed, epoch=epoch)
    batches = split.plan(batch_size, order)
    assert [position for batch in batches for position in batch] == order
    assert sorted(order) == list(range(images))
    if batch_size > 1 and images > 1:
        assert all(1 < len(batch) <= batch_size + 1 for batch in batches)
    assert order == shuffled(images, seed=seed, epoch=epoch)


@given(skip=st.integers(0, 5))
def test_skipping_gives_the_rest_of_the_same_epoch(skip: int) -> None:
    split = Split(torch.arange(17), identity)
    order = shuffled(17, seed=1, epoch=2)
    whole = [target.tolist() for _, target in split.batches(split.plan(4, order), epoch=2)]
    assert [target.tolist() for _, target in split.batches(split.plan(4, order), skip=skip, epoch=2)] == whole[skip:]
    for inputs, target in split.batches(split.plan(4, order), epoch=2):
        assert torch.equal(inputs, torch.stack([target, torch.full_like(target, 2)], dim=1))


@given(order=st.lists(st.integers(0, 5), min_size=1, max_size=40), batch_size=st.integers(1, 9), skip=st.integers(0, 3))
def test_a_repeated_picture_is_looked_at_anew_however_the_epoch_is_cut(order: list[int], batch_size: int, skip: int) -> None:
    split = Split(torch.arange(6), identity)
    whole = [tuple(draw) for inputs, _ in split.batches(split.plan(1, order), epoch=3) for draw in inputs.tolist()]
    assert [position for position, _ in whole] == order and len(set(whole)) == len(order)
    assert whole[0] == (order[0], 3)
    batches = [inputs.tolist() for inputs, _ in split.batches(split.plan(batch_size, order), epoch=3)]
    assert [tuple(draw) for batch in batches for draw in batch] == whole
    assert [inputs.tolist() for inputs, _ in split.batches(split.plan(batch_size, order), epoch=3, skip=skip)] == batches[skip:]


def test_the_next_batches_are_fetched_meanwhile_and_no_more() -> None:
    fetched: Queue[int] = Queue()

    def fetch(positions: Sequence[int], epoch: int) -> torch.Tensor:
        fetched.put(positions[0])
        return identity(positions, epoch)

    batches = Split(torch.arange(20), fetch).batches([[first, first + 1] for first in range(0, 20, 2)])
    next(batches)
    assert [fetched.get(timeout=60) for _ in range(3)] == [0, 2, 4]
    batches.close()  # type: ignore[attr-defined]
    assert fetched.empty()


def test_an_error_in_a_picture_reaches_who_asks() -> None:
    def broken(positions: object, epoch: int) -> torch.Tensor:
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        list(Split(torch.zeros(4, dtype=torch.int64), broken).batches([[0, 1], [2, 3]]))


def test_pixels_are_what_serving_sees_and_targets_follow_the_labels(drawn: Dataset) -> None:
    records = drawn.split("train")
    split = loaders.pixels(Pictures(drawn, records, PREPROCESS), threads=2)
    fetched = split.fetch(range(len(records)), 0)
    assert fetched.dtype == torch.uint8 and fetched.shape == (len(records), 32, 32, 3)
    for position, record in enumerate(records):
        assert np.array_equal(fetched[position].numpy(), PREPROCESS.pixels(decode(drawn.path(record).read_bytes())))
        assert drawn.labels[split.targets[position]] == record.label == record.name.partition(".")[0]


def fill(dataset: Dataset, cache: Cache, preprocess: Preprocess, augment: str) -> list[Progress]:
    return list(loaders.fill(
        Pictures(dataset, dataset.split("train"), preprocess, augment), cache=cache, threads=2, phase="features",
    ))


@pytest.mark.parametrize("augment", ["none", "light", "default", "strong"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_cache_changes_no_pixel_and_pays_no_decoding(drawn: Dataset, tmp_path: Path, geometry: Any, augment: str) -> None:
    preprocess, cache, records = Preprocess(32, geometry=geometry), Cache(tmp_path, 10**7), drawn.split("train")
    anew = loaders.pixels(Pictures(drawn, records, preprocess, augment, seed=4), threads=2)
    said = fill(drawn, cache, preprocess, augment)
    assert said[-1].step == said[-1].steps == len(records) and fill(drawn, cache, preprocess, augment) == []
    # The bytes of this data set are nowhere to be found: what is fetched cannot have been decoded.
    gone = replace(drawn, folder=tmp_path / "gone")
    cached = loaders.pixels(Pictures(gone, records, preprocess, augment, seed=4), threads=1, cache=cache)
    for epoch in (0, 5):
        assert torch.equal(anew.fetch(range(len(records)), epoch), cached.fetch(range(len(records)), epoch))
    assert torch.equal(anew.targets, cached.targets)
    if augment == "none":
        served = [preprocess.pixels(decode(drawn.read(record))) for record in records]
        assert np.array_equal(cached.fetch(range(len(records)), 1).numpy(), np.stack(served))


def test_views_differ_by_epoch_and_seed_and_by_nothing_else(drawn: Dataset) -> None:
    records = drawn.split("train")
    split = loaders.pixels(Pictures(drawn, records, PREPROCESS, "default"), threads=2)
    everything, backwards = range(len(records)), range(len(records))[::-1]
    views = split.fetch(everything, 1)
    assert views.dtype == torch.uint8 and views.shape == (len(records), 32, 32, 3)
    alone = loaders.pixels(Pictures(drawn, records[::-1], PREPROCESS, "default"), threads=1)
    assert torch.equal(torch.cat([alone.fetch([position], 1) for position in backwards]), views)
    reseeded = loaders.pixels(Pictures(drawn, records, PREPROCESS, "default", seed=1), threads=2)
    for other in (split.fetch(everything, 2), reseeded.fetch(everything, 1)):
        assert all(not torch.equal(one, another) for one, another in zip(views, other, strict=True))


def test_a_resumed_epoch_sees_what_the_first_would_have(drawn: Dataset) -> None:
    split = loaders.pixels(Pictures(drawn, drawn.split("train"), PREPROCESS, "strong", seed=9), threads=2)
    order = [*shuffled(len(split), seed=9, epoch=2), 0, 0, 1]
    whole = [inputs for inputs, _ in split.batches(split.plan(5, order), epoch=2)]
    rest = [inputs for inputs, _ in split.batches(split.plan(5, order), epoch=2, skip=2)]
    assert len(rest) == len(whole) - 2 and all(torch.equal(one, other) for one, other in zip(rest, whole[2:], strict=True))
    last, place = torch.cat(whole), order.index(0)
    assert not torch.equal(last[-3], last[-2]) and not torch.equal(last[place], last[-3])


@pytest.mark.parametrize("augment", ["none", "default"])
def test_no_room_is_said_and_pixels_come_all_the_same(drawn: Dataset, tmp_path: Path, augment: str) -> None:
    small, records = Cache(tmp_path / "small", 1000), drawn.split("train")
    with pytest.raises(Unavailable, match="Received: a cache of 1000") as caught:
        fill(drawn, small, PREPROCESS, augment)
    assert "CATDOG_CACHE_BYTES" in caught.value.remedy
    assert fill(drawn, Cache(tmp_path / "off", 0), PREPROCESS, augment) == []  # switched off: nothing to say
    expected = loaders.pixels(Pictures(drawn, records, PREPROCESS, augment), threads=1).fetch([0, 1], 0)
    assert torch.equal(loaders.pixels(Pictures(drawn, records, PREPROCESS, augment), threads=1, cache=small).fetch([0, 1], 0), expected)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_is_full_of_what_the_run_uses_is_said(drawn: Dataset, tmp_path: Path) -> None:
    cache = Cache(tmp_path, 32 * 32 * 3 * 24)
    fill(drawn, cache, PREPROCESS, "none")
    with pytest.raises(Unavailable, match="in use"):
        fill(drawn, cache, replace(PREPROCESS, resize="bilinear"), "none")


def test_a_cache_that_cannot_be_written_is_said_and_pixels_come_all_the_same(drawn: Dataset, tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"")  # a file where its folder would be
    cache, records = Cache(tmp_path / "cache", 10**7), drawn.split("train")
    with pytest.raises(Unavailable, match="File exists") as caught:
        fill(drawn, cache, PREPROCESS, "none")
    assert "nothing else depends on it" in caught.value.remedy
    expected = loaders.pixels(Pictures(drawn, records, PREPROCESS), threads=1).fetch([0, 1], 0)
    assert torch.equal(loaders.pixels(Pictures(drawn, records, PREPROCESS), threads=1, cache=cache).fetch([0, 1], 0), expected)


def test_what_is_made_otherwise_lies_beside(drawn: Dataset, tmp_path: Path) -> None:
    cache, wanted = Cache(tmp_path, 10**8), [(PREPROCESS, augment) for augment in ("none", "light", "default", "strong")]
    wanted += [(Preprocess(32, geometry="stretch"), "none"), (Preprocess(32, crop=0.5), "light")]
    for preprocess, augment in wanted:
        assert fill(drawn, cache, preprocess, augment)
    assert all(fill(drawn, cache, preprocess, augment) == [] for preprocess, augment in wanted)


def test_a_damaged_cache_is_filled_anew(drawn: Dataset, tmp_path: Path) -> None:
    cache, records = Cache(tmp_path, 10**7), drawn.split("train")
    fill(drawn, cache, PREPROCESS, "none")
    (path,) = [path for path in tmp_path.iterdir() if path.stat().st_size]
    path.write_bytes(path.read_bytes()[::-1])
    split = loaders.pixels(Pictures(drawn, records, PREPROCESS), threads=1, cache=cache)
    assert np.array_equal(split.fetch([3], 0)[0].numpy(), PREPROCESS.pixels(decode(drawn.read(records[3]))))
    assert fill(drawn, cache, PREPROCESS, "none")


def test_features_are_the_graphs_for_every_image_in_order(dataset: Dataset, finished: Finished, tmp_path: Path) -> None:
    graph = finished.run / "package" / "model.onnx"
    path, records = tmp_path / "val.safetensors", dataset.split("val")
    said = list(loaders.compute_features(Pictures(dataset, records, PREPROCESS), graph=graph, path=path, threads=2, phase="features"))
    split = loaders.features(path)
    assert said[-1].step == said[-1].steps == len(records)
    predictor = Predictor.load(finished.run / "package")
    assert torch.equal(split.targets, torch.tensor([dataset.target(record) for record in records]))
    for position, record in enumerate(records):
        pixels = PREPROCESS.pixels(decode(dataset.path(record).read_bytes()))[np.newaxis]
        (alone,) = predictor._engine.run(["features"], pixels)
        assert np.allclose(split.fetch([position], 0).numpy(), alone, atol=1e-4)


def test_features_that_were_not_finished_are_not_there(dataset: Dataset, finished: Finished, tmp_path: Path) -> None:
    steps = loaders.compute_features(
        Pictures(dataset, dataset.split("train"), PREPROCESS), graph=finished.run / "package" / "model.onnx",
        path=tmp_path / "train.safetensors", threads=1, phase="features",
    )
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    assert list(tmp_path.iterdir()) == []
