"""report.py: every fault is named, nothing healthy is accused, and the page does no harm."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from catdog.errors import BadDataset, NotFound
from catdog.plans import Labelling
from catdog.settings import Settings
from catdog.sources import import_folder, report
from tests.pictures import lay_out, pack, pets, picture
from tests.planted import plant


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load(data_dir=tmp_path / "data")


def names_of(summary: dict[str, Any], code: str) -> list[str]:
    return [name for finding in summary["findings"] if finding["code"] == code for name in finding["names"]]


def test_every_planted_fault_is_named_and_no_healthy_file(shared_data: Callable[..., Path], tmp_path: Path, settings: Settings) -> None:
    planted = plant(shared_data("dogs_vs_cats"), tmp_path / "photographs")
    summary, page = report(str(tmp_path / "photographs"), settings=settings, labelling=Labelling(unlabelled="skip"))
    refused = {one["name"]: one for one in summary["refused"]}
    assert sorted(refused) == sorted([*planted.ambiguous, *planted.duplicates, *planted.broken])
    assert {refused[name]["kind"] for name in planted.ambiguous} == {"ambiguous"}
    assert [refused[name]["kind"] for name in planted.duplicates] == ["duplicate", "leak", "leak", "leak"] * 3
    assert all(re.search(r"(val|test)/cat\.\d+\.jpg", refused[name]["reason"]) for name in planted.duplicates)
    assert {refused[name]["kind"] for name in planted.broken} == {"unreadable"}
    assert sorted(names_of(summary, "mode_cmyk")) == planted.cmyk
    assert sorted(names_of(summary, "turned")) == planted.turned
    imbalance, = (finding for finding in summary["findings"] if finding["code"] == "imbalance")
    assert "229 pictures and of dog 25: 9.2 to 1" in imbalance["message"] and "balance=" in imbalance["advice"]
    accused = {name for finding in summary["findings"] for name in finding["names"]}
    assert accused & set(planted.healthy) == set()
    assert summary["verdict"] == "ready" and summary["images"] == 254
    for name in accused:
        assert name.encode() in page
    assert not (settings.root / "datasets").exists()


def test_the_shared_photographs_are_accused_of_one_pair_only(shared_data: Callable[..., Path], settings: Settings) -> None:
    summary, _ = report(str(shared_data("dogs_vs_cats")), settings=settings)
    assert [finding["code"] for finding in summary["findings"]] == ["near_duplicates"]
    assert sorted(names_of(summary, "near_duplicates")) == ["train/dog.180.jpg", "train/dog.74.jpg"]
    assert summary["verdict"] == "ready" and summary["refused"] == []


def test_what_would_be_refused_is_reported_all_the_same(tmp_path: Path, settings: Settings) -> None:
    files = {**pets(6), **{f"cat.9{number}.png": b"broken" for number in range(4)}, "dog.same.png": pets()["cat.2.png"]}
    summary, page = report(str(pack(tmp_path / "a.zip", files)), settings=settings)
    assert summary["verdict"] == "refused"
    messages = [finding["message"] for finding in summary["findings"] if finding["severity"] == "error"]
    assert len(messages) == 2 and "unreadable pictures of cat" in messages[0] and "one label for one picture" in messages[1]
    assert b"No data set comes of it" in page
    with pytest.raises(BadDataset):
        report(str(lay_out(tmp_path / "cats", {name: data for name, data in pets().items() if name.startswith("cat")})), settings=settings)


def test_a_data_set_carries_its_report(tmp_path: Path, settings: Settings) -> None:
    source = lay_out(tmp_path / "source", {**pets(8), "notes.txt": b"", ".DS_Store": b""})
    dataset = import_folder(source, settings.datasets, settings=settings)
    summary, page = report(dataset.id, settings=settings)
    assert summary == json.loads((dataset.folder / "report.json").read_text())
    assert (summary["counts"], summary["ignored"]) == (dataset.counts, 1)
    assert summary == report(str(source), settings=settings)[0]
    assert page.startswith(b"<!doctype html>")
    with pytest.raises(NotFound):
        report("ds_" + "0" * 32, settings=settings)


def test_where_nothing_can_be_read_there_is_a_report_too(tmp_path: Path, settings: Settings) -> None:
    summary, page = report(str(lay_out(tmp_path / "source", dict.fromkeys(pets(), b"nothing"))), settings=settings)
    assert summary["verdict"] == "refused" and summary["images"] == 0 and len(summary["refused"]) == 12
    assert b"0 pictures, 2 labels" in page


class Reader(HTMLParser):
    """Notes every tag, and every address."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "data", "srcset", "style")]


def test_strangers_names_do_nothing_on_the_page(tmp_path: Path, settings: Settings) -> None:
    evil = [
        'cat.<img src=x onerror=alert(1)>.png', 'cat."><script>alert(1)<\u202egpj.png', "dog.{{ 7 * 7 }}.png", "dog.&lt;b&gt;\x1b[31m.png",
    ]
    files = pets(6) | {name: picture(500 + turn) for turn, name in enumerate(evil)} | {"<script>.txt": b"", "cat_dog <b>.png": picture(9)}
    summary, page = report(
        str(lay_out(tmp_path / "source", files)), settings=settings, labelling=Labelling(unlabelled="skip"),
    )
    assert {"<script>.txt", "cat_dog <b>.png"} <= {one["name"] for one in summary["refused"]}
    reader = Reader()
    reader.feed(page.decode())
    assert reader.tags & {"script", "iframe", "object", "link", "a", "form", "b"} == set()
    assert all(address.startswith("data:image/jpeg;base64,") for address in reader.addresses)
    assert "{{ 7 * 7 }}" in page.decode() and "\u202e" not in page.decode() and "\x1b" not in page.decode()


def test_what_has_no_clear_label_is_an_error_of_the_report_and_not_its_end(tmp_path: Path, settings: Settings) -> None:
    source = str(lay_out(tmp_path / "source", {**pets(), "catdog.png": picture(700), "IMG_1.heic": b"x", "notes.txt": b""}))
    summary, page = report(source, settings=settings)
    first, *rest = summary["findings"]
    assert (first["severity"], first["names"]) == ("error", ["catdog.png"]) and "unlabelled=skip" in first["advice"]
    assert summary["verdict"] == "refused" and summary["images"] == 12 and b"No data set comes of it" in page
    assert {finding["code"]: finding["severity"] for finding in rest if finding["names"] in (["IMG_1.heic"], ["notes.txt"])} == {
        "unsupported": "warning", "not_a_picture": "note",
    }
    assert report(source, settings=settings, labelling=Labelling(unlabelled="skip"))[0]["verdict"] == "ready"


def test_pictures_that_are_too_uniform_to_tell_are_worth_a_look(tmp_path: Path, settings: Settings) -> None:
    """Of one colour each: copies of them could stand in two splits, and nobody would know."""
    summary, _ = report(str(lay_out(tmp_path / "source", pets())), settings=settings)
    (finding,) = (finding for finding in summary["findings"] if finding["code"] == "uniform")
    assert finding["severity"] == "warning" and sorted(finding["names"]) == sorted(pets())
