"""downloads.py: against a real server on this machine that cuts connections, changes files and lies."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from catdog.downloads import download
from catdog.errors import TooLarge, Unreachable
from tests.shop import DATA, Shop, opened


@pytest.fixture
def shop() -> Iterator[Shop]:
    """A shop of this test alone."""
    with opened() as running:
        yield running


def test_a_file_is_fetched_once(shop: Shop, tmp_path: Path) -> None:
    said: list[tuple[int, int]] = []
    path = download(shop.url, tmp_path / "in" / "a.zip", progress=lambda done, total: said.append((done, total)))
    assert path.read_bytes() == DATA and said[-1] == (len(DATA), len(DATA))
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["a.zip"]
    download(shop.url, path, sha256=hashlib.sha256(DATA).hexdigest())
    assert len(shop.asked) == 1


def interrupted(shop: Shop, path: Path) -> None:
    shop.cut = 100_000
    with pytest.raises(Unreachable):
        download(shop.url, path)
    assert not path.exists()
    shop.cut = 0


def test_a_cut_download_goes_on(shop: Shop, tmp_path: Path) -> None:
    interrupted(shop, tmp_path / "a.zip")
    assert download(shop.url, tmp_path / "a.zip").read_bytes() == DATA
    assert shop.asked == [None, "bytes=100000-"]


def test_a_server_may_send_less_than_the_rest(shop: Shop, tmp_path: Path) -> None:
    interrupted(shop, tmp_path / "a.zip")
    interrupted(shop, tmp_path / "a.zip")
    assert download(shop.url, tmp_path / "a.zip").read_bytes() == DATA
    assert shop.asked == [None, "bytes=100000-", "bytes=200000-"]


def test_a_file_that_changed_meanwhile_is_begun_anew(shop: Shop, tmp_path: Path) -> None:
    interrupted(shop, tmp_path / "a.zip")
    shop.data, shop.etag = DATA[::-1], '"two"'
    assert download(shop.url, tmp_path / "a.zip").read_bytes() == DATA[::-1]


def test_a_server_without_strong_tags_is_asked_for_all_of_it(shop: Shop, tmp_path: Path) -> None:
    shop.etag = 'W/"one"'
    interrupted(shop, tmp_path / "a.zip")
    assert download(shop.url, tmp_path / "a.zip").read_bytes() == DATA
    assert shop.asked == [None, None]


def test_a_part_that_is_longer_than_the_file(shop: Shop, tmp_path: Path) -> None:
    interrupted(shop, tmp_path / "a.zip")
    (tmp_path / "a.zip.part").write_bytes(DATA + b"more")
    with pytest.raises(Unreachable, match="416"):
        download(shop.url, tmp_path / "a.zip")
    assert download(shop.url, tmp_path / "a.zip").read_bytes() == DATA


def test_another_file_than_expected_is_thrown_away(shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="sha256"):
        download(shop.url, tmp_path / "a.zip", sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_more_than_the_limit_is_thrown_away(shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(TooLarge):
        download(shop.url, tmp_path / "a.zip", limit=1000)
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_and_no_server(shop: Shop, tmp_path: Path) -> None:
    shop.status = 404
    with pytest.raises(Unreachable, match="404"):
        download(shop.url, tmp_path / "a.zip")
    with pytest.raises(Unreachable, match="ConnectError"):
        download("http://127.0.0.1:1/a.zip", tmp_path / "a.zip")
    assert list(tmp_path.iterdir()) == []
