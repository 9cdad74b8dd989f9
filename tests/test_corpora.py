"""corpora.py: each public collection from a server of this machine: a small one of the same shape, drawn, with a few broken pictures."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.testing import CliRunner

from catdog import corpora
from catdog.cli import app
from catdog.corpora import CORPORA, Corpus, fetch, find
from catdog.datasets import Dataset
from catdog.errors import BadDataset, NotFound, TooLarge, Unavailable, Unreachable, UnsupportedType
from catdog.settings import Settings
from catdog.sources import accept, draw, fetch_public
from service.routes.datasets import Public
from tests.pictures import pack
from tests.shop import Shop, opened
from tests.test_tarballs import pack_tar, strange

BREEDS = {"cat": ("Abyssinian", "British_Shorthair"), "dog": ("beagle", "american_pit_bull_terrier")}
BROKEN = {"cat": b"", "dog": b"\xff\xd8\xff\xe0 cut off"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings(data_dir=tmp_path / "data")
    settings.make_folders()
    return settings


@pytest.fixture
def shop() -> Iterator[Shop]:
    """A shop of this test alone."""
    with opened() as running:
        yield running


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[bytes]]:
    """Twelve drawn pictures of each label."""
    folder = tmp_path_factory.mktemp("drawn")
    draw(folder, count=24, size=48, seed=1)
    return {label: [(folder / f"{label}.{number}.jpg").read_bytes() for number in range(12)] for label in ("cat", "dog")}


@pytest.fixture(scope="module")
def goods(drawn: dict[str, list[bytes]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """By the name of a collection: a file of its shape."""
    folder = tmp_path_factory.mktemp("goods")
    workshop, oxford, microsoft = {"subset/LICENSE.txt": b"free"}, {"images/Abyssinian_100.mat": b"x"}, {"readme[1].txt": b"x"}
    for label, pictures in drawn.items():
        for number, data in enumerate(pictures):
            workshop[f"subset/{('train', 'val', 'test')[number // 4]}/{label}.{number}.jpg"] = data
            oxford[f"images/{BREEDS[label][number % 2]}_{number}.jpg"] = data
            microsoft[f"PetImages/{label.capitalize()}/{number}.jpg"] = data
        microsoft[f"PetImages/{label.capitalize()}/666.jpg"] = BROKEN[label]
        microsoft[f"PetImages/{label.capitalize()}/Thumbs.db"] = b"x"
    links = (strange("images", b"5"), strange("images/Bengal_1.jpg", b"2", "/etc/passwd"))
    packed = {
        "dogs-vs-cats": pack(folder / "w.zip", workshop), "oxford-pets": pack_tar(folder / "o.tar.gz", oxford, more=links),
        "microsoft-cats-vs-dogs": pack(folder / "m.zip", microsoft),
    }
    return {name: path.read_bytes() for name, path in packed.items()}


Sell = Callable[[str], Corpus]


@pytest.fixture
def sell(shop: Shop, goods: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Sell:
    """Let the shop sell a collection under its name, which then lies there for everybody."""

    def begin(name: str) -> Corpus:
        shop.data = goods[name]
        sha256 = CORPORA[name].sha256 and hashlib.sha256(shop.data).hexdigest()
        monkeypatch.setitem(CORPORA, name, replace(CORPORA[name], url=shop.url, sha256=sha256))
        return CORPORA[name]

    return begin


def asked_for(settings: Settings, **request: Any) -> Path:
    folder = settings.datasets / "ds_public"
    folder.mkdir()
    (folder / "request.json").write_text(json.dumps(request))
    return folder


def test_what_the_service_offers_is_what_there_is() -> None:
    assert set(get_args(Public.model_fields["source"].annotation)) == set(CORPORA)
    for corpus in CORPORA.values():
        assert corpus.url.startswith("https://") and corpus.title and corpus.licence
        assert corpus.sha256 is None or len(bytes.fromhex(corpus.sha256)) == 32
    with pytest.raises(NotFound, match="oxford-pets"):
        find("oxford-dogs")


@pytest.mark.parametrize("name", list(CORPORA))
def test_a_collection_becomes_a_data_set(name: str, sell: Sell, shop: Shop, drawn: dict[str, list[bytes]], settings: Settings) -> None:
    sell(name)
    said: list[tuple[int, int]] = []
    folder = asked_for(settings, source=name, seed=3)
    accept(folder, settings, progress=lambda done, total: said.append((done, total)))
    dataset = Dataset.open(folder)
    assert dataset.labels == ("cat", "dog") and (len(shop.data),) * 2 in said
    for label, pictures in drawn.items():
        assert {dataset.read(record) for record in dataset.records if record.label == label} <= set(pictures)
        assert sum(record.label == label for record in dataset.records) >= 10  # drawn in 48 pixels, some look alike
    refused = {entry["name"]: entry["kind"] for entry in dataset.refused if entry["kind"] not in ("leak", "duplicate")}
    assert refused == {
        "dogs-vs-cats": {"subset/LICENSE.txt": "not_a_picture"},
        "oxford-pets": {},
        "microsoft-cats-vs-dogs": {
            "readme[1].txt": "not_a_picture", "PetImages/Cat/666.jpg": "unreadable", "PetImages/Dog/666.jpg": "unreadable",
        },
    }[name]
    assert {path.name for path in (settings.root / "downloads").iterdir()} == {f"{name}.zip", f"{name}.lock"}


def test_what_is_here_is_not_asked_for_again(sell: Sell, shop: Shop, settings: Settings) -> None:
    sell("oxford-pets")
    first = fetch_public("oxford-pets", settings=settings)
    assert fetch_public("oxford-pets", settings=settings) == first and len(shop.asked) == 1


@pytest.mark.parametrize("name", ["dogs-vs-cats", "oxford-pets"])
def test_a_download_that_is_cut_goes_on_for_as_long_as_something_comes(name: str, sell: Sell, shop: Shop, settings: Settings) -> None:
    corpus = sell(name)
    shop.cut = len(shop.data) // 3 + 1
    fetch(corpus, settings.root / "downloads", settings=settings)
    assert shop.asked == [None, f"bytes={shop.cut}-", f"bytes={2 * shop.cut}-"]


def test_a_server_that_sends_no_more_is_said_and_what_came_is_kept(sell: Sell, shop: Shop, settings: Settings) -> None:
    sell("oxford-pets")
    folder = asked_for(settings, source="oxford-pets")
    whole, shop.cut = shop.data, 1000

    def leave(done: int, _total: int) -> None:
        shop.status = 503 if done else 200

    accept(folder, settings, progress=leave)
    refusal = json.loads((folder / "refused.json").read_text())
    assert refusal["code"] == "unavailable" and "503" in refusal["message"] and refusal["remedy"]
    shop.status, shop.cut = 200, 0
    fetch_public("oxford-pets", settings=settings)
    assert shop.asked[-1] == "bytes=1000-" and whole == shop.data


def test_no_server_is_said_at_once(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CORPORA, "oxford-pets", replace(CORPORA["oxford-pets"], url="http://127.0.0.1:1/images.tar.gz"))
    folder = asked_for(settings, source="oxford-pets")
    accept(folder, settings)
    assert json.loads((folder / "refused.json").read_text())["code"] == "unavailable"
    assert [path.name for path in settings.datasets.iterdir()] == ["ds_public"]


def test_another_file_than_published_is_thrown_away(sell: Sell, shop: Shop, settings: Settings) -> None:
    corpus = sell("microsoft-cats-vs-dogs")
    shop.data = shop.data[:-1] + b"x"
    with pytest.raises(Unreachable, match="sha256"):
        fetch(corpus, settings.root, settings=settings)
    assert len(shop.asked) == 1 and not list(settings.root.glob("microsoft*zip*"))


def test_a_page_instead_of_the_collection_is_thrown_away(sell: Sell, shop: Shop, settings: Settings) -> None:
    corpus = sell("dogs-vs-cats")
    whole, shop.data = shop.data, b"<html>Sign in to this network</html>"
    with pytest.raises(UnsupportedType):
        fetch(corpus, settings.root, settings=settings)
    shop.data, shop.etag = whole, '"two"'
    assert fetch(corpus, settings.root, settings=settings).read_bytes() == whole


def test_a_collection_above_the_limit_is_not_kept(sell: Sell, settings: Settings) -> None:
    small = settings.model_copy(update={"max_archive_bytes": 1000})
    with pytest.raises(TooLarge, match="download of at most 1000"):
        fetch(sell("microsoft-cats-vs-dogs"), settings.root / "in", settings=small)
    assert [path.name for path in (settings.root / "in").iterdir()] == ["microsoft-cats-vs-dogs.lock"]


def test_a_disk_that_takes_nothing_keeps_the_request_for_another_try(sell: Sell, settings: Settings) -> None:
    sell("oxford-pets")
    (settings.root / "downloads").write_bytes(b"no folder")
    folder = asked_for(settings, source="oxford-pets")
    with pytest.raises(Unavailable) as caught:
        accept(folder, settings)
    assert not isinstance(caught.value, Unreachable)
    assert [path.name for path in folder.iterdir()] == ["request.json"]


def test_two_that_want_the_same_one_fetch_it_once(sell: Sell, shop: Shop, settings: Settings) -> None:
    corpus = sell("oxford-pets")
    got: list[Path] = []
    threads = [threading.Thread(target=lambda: got.append(fetch(corpus, settings.root, settings=settings))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 4 and len(shop.asked) == 1


def test_names_of_the_tar_that_are_no_pictures_of_it_are_not_taken() -> None:
    corpus = CORPORA["oxford-pets"]
    assert {name: corpora._placed(corpus, name) for name in (
        "images/Maine_Coon_12.jpg", "images/pug_9.jpg", "images/../x_1.jpg", "images/._pug_9.jpg", "x/images/pug_9.jpg",
        "images/pug_9.jpg\n", "images/pug_\u0661.jpg", "images/Abyssinian_100.mat", "/images/pug_9.jpg",
    ) if corpora._placed(corpus, name)} == {"images/Maine_Coon_12.jpg": "cat/Maine_Coon_12.jpg", "images/pug_9.jpg": "dog/pug_9.jpg"}


def test_the_command_line_lists_fetches_and_imports(
    goods: dict[str, bytes], settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From a zip that was downloaded before: no network in this test."""
    monkeypatch.setenv("CATDOG_DATA_DIR", str(settings.root))
    monkeypatch.chdir(tmp_path)
    zipped = settings.root / "downloads" / "dogs-vs-cats.zip"
    zipped.parent.mkdir()
    zipped.write_bytes(goods["dogs-vs-cats"])

    def printed(*words: str) -> str:
        done = CliRunner().invoke(app, ["data", *words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    assert all(name in printed("fetch") for name in CORPORA)
    assert str(zipped) in printed("fetch", "dogs-vs-cats")
    imported = printed("import", "dogs-vs-cats").split()[-1]
    assert Dataset.open(settings.datasets / imported).counts["test"] == {"cat": 4, "dog": 4}
    with pytest.raises(NotFound, match="oxford-pets"):
        printed("fetch", "dogs")
    (tmp_path / "dogs-vs-cats").mkdir()
    with pytest.raises(BadDataset, match="no files"):
        printed("import", "dogs-vs-cats")
