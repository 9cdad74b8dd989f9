"""datasets.py: a data set that is read is the one that was written."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catdog.datasets import Dataset, Record, fingerprint_of
from catdog.errors import DatasetChanged, NotFound
from catdog.settings import Settings
from catdog.sources import import_path
from tests.pictures import lay_out, pets

RECORDS = st.lists(
    st.builds(
        Record, sha256=st.text("0123456789abcdef", min_size=4, max_size=4), name=st.just("x"), label=st.sampled_from(("cat", "dog")),
        split=st.sampled_from(("train", "val", "test")), width=st.just(8), height=st.just(8), bytes=st.just(9),
        format=st.just("PNG"), mode=st.just("RGB"), orientation=st.just(1), modified=st.none(), group=st.just(""),
    ), max_size=8,
)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    source = lay_out(tmp_path / "source", {**pets(10), "README.txt": b"hello"})
    settings = Settings(data_dir=tmp_path / "data")
    return import_path(source, settings=settings)


def test_what_is_on_disk_is_what_was_imported(dataset: Dataset) -> None:
    assert Dataset.open(dataset.folder) == dataset
    assert dataset.labels == ("cat", "dog") and dataset.id == f"ds_{dataset.fingerprint[:32]}" == dataset.folder.name
    assert dataset.counts == {"train": {"cat": 6, "dog": 6}, "val": {"cat": 2, "dog": 2}, "test": {"cat": 2, "dog": 2}}
    assert {record.name: dataset.read(record) for record in dataset.records} == pets(10)
    for record in dataset.records:
        assert dataset.path(record).name == hashlib.sha256(pets(10)[record.name]).hexdigest() == record.sha256
        assert dataset.path(record).parent.name == record.sha256[:2]
        assert (record.width, record.height) == (16, 12)
        assert dataset.labels[dataset.target(record)] == record.label
        assert record in dataset.split(record.split)
    assert sum(len(dataset.split(split)) for split in ("train", "val", "test")) == 20


def test_the_summary_is_json_and_lists_what_was_left_out(dataset: Dataset) -> None:
    summary = json.loads(json.dumps(dataset.summary()))
    assert summary["images"] == 20 and summary["labels"] == ["cat", "dog"] and summary["counts"] == dataset.counts
    assert [entry["name"] for entry in summary["refused"]] == ["README.txt"] and summary["refused_count"] == 1


def test_there_is_none_without_dataset_json(dataset: Dataset, tmp_path: Path) -> None:
    (dataset.folder / "dataset.json").unlink()
    for folder in (dataset.folder, tmp_path / "nowhere", tmp_path / "source" / "README.txt"):
        with pytest.raises(NotFound, match="Expected a data set"):
            Dataset.open(folder)


@pytest.mark.parametrize("harm", ["edit", "cut", "remove", "header", "format", "fields"])
def test_a_changed_data_set_is_not_opened(harm: str, dataset: Dataset) -> None:
    records, header = dataset.folder / "records.jsonl", dataset.folder / "dataset.json"
    if harm == "edit":
        records.write_text(records.read_text().replace('"cat"', '"dog"', 1))
    elif harm == "cut":
        records.write_bytes(records.read_bytes()[:-30])
    elif harm == "remove":
        records.unlink()
    elif harm == "header":
        header.write_text(header.read_text()[:-10])
    elif harm == "format":
        header.write_text(json.dumps(json.loads(header.read_text()) | {"format": 99}))
    else:
        header.write_text("{}")
    with pytest.raises(DatasetChanged, match="Expected"):
        Dataset.open(dataset.folder)


def test_a_changed_picture_is_not_read(dataset: Dataset) -> None:
    first, second = dataset.records[:2]
    shutil.copy(dataset.path(second), dataset.path(first))
    dataset.path(second).unlink()
    for record in (first, second):
        with pytest.raises(DatasetChanged, match=record.name):
            dataset.read(record)


@given(RECORDS, st.randoms(use_true_random=False))
def test_the_fingerprint_knows_no_order_of_records(records: list[Record], rng: object) -> None:
    mixed = list(records)
    rng.shuffle(mixed)  # type: ignore[attr-defined]
    assert fingerprint_of(records, ("cat", "dog")) == fingerprint_of(mixed, ("cat", "dog"))


@given(RECORDS, RECORDS)
def test_the_fingerprint_knows_content_label_and_split(one: list[Record], other: list[Record]) -> None:
    same = sorted(map(repr, one)) == sorted(map(repr, other))
    assert (fingerprint_of(one, ("cat", "dog")) == fingerprint_of(other, ("cat", "dog"))) == same


def test_the_fingerprint_knows_the_order_of_labels() -> None:
    assert fingerprint_of([], ("cat", "dog")) != fingerprint_of([], ("dog", "cat"))
