"""tarballs.py: a tar.gz becomes a zip, or nothing: by tars of people who mean harm, and by tars that broke."""

import gzip
import io
import random
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from catdog.archives import Archive
from catdog.errors import BadDataset, TooLarge
from catdog.settings import Settings
from catdog.tarballs import repack
from tests.pictures import pets


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", max_image_bytes=2**20, max_unpacked_bytes=4 * 2**20, max_archive_files=100)


def pack_tar(path: Path, files: Mapping[str, bytes], *, more: tuple[tarfile.TarInfo, ...] = (), modified: int = 1_700_000_000) -> Path:
    """A tar.gz of files, and of entries that are none."""
    with tarfile.open(path, "w:gz") as packed:
        for entry in more:
            packed.addfile(entry)
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(data), modified
            packed.addfile(entry, io.BytesIO(data))
    return path


def strange(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


def test_every_file_comes_over_with_its_time_and_in_its_order(tmp_path: Path, settings: Settings) -> None:
    said: list[tuple[int, int]] = []
    source = pack_tar(tmp_path / "a.tar.gz", {**pets(), "notes.txt": b"no"})
    target = repack(
        source, tmp_path / "a.zip", lambda name: f"in/{name}" if name.endswith(".png") else None, settings=settings,
        progress=lambda done, total: said.append((done, total)),
    )
    with Archive(target, settings) as archive:
        assert {name: archive.read(name) for name in archive.names} == pets(prefix="in/")
        assert archive.names == [f"in/{name}" for name in pets()]
        assert {archive.modified(name) for name in archive.names} == {1_700_000_000}
    assert said == sorted(said) and said[-1] == (source.stat().st_size,) * 2


def test_the_last_that_is_told_is_the_end_also_where_something_stands_behind_the_tar(tmp_path: Path, settings: Settings) -> None:
    """From then on the import's alarm is off: what follows is the disk's time."""
    said: list[tuple[int, int]] = []
    source = pack_tar(tmp_path / "a.tar.gz", pets())
    source.write_bytes(source.read_bytes() + gzip.compress(random.Random(0).randbytes(2**20)))
    repack(source, tmp_path / "a.zip", str, settings=settings, progress=lambda done, total: said.append((done, total)))
    assert said[-2][0] < said[-1][0] == source.stat().st_size


@pytest.mark.parametrize(("modified", "told"), [(0, 315_532_800), (-5, 315_532_800), (2**40, 4_354_819_198)])
def test_times_that_a_zip_cannot_tell(modified: int, told: int, tmp_path: Path, settings: Settings) -> None:
    target = repack(pack_tar(tmp_path / "a.tar.gz", pets(), modified=modified), tmp_path / "a.zip", str, settings=settings)
    with Archive(target, settings) as archive:
        assert {archive.modified(name) for name in archive.names} == {told}


@pytest.mark.parametrize("modified", ["nan", "inf"])
def test_times_that_are_no_numbers(modified: str, tmp_path: Path, settings: Settings) -> None:
    entry = tarfile.TarInfo("cat.9.png")
    entry.pax_headers = {"mtime": modified}
    refused(pack_tar(tmp_path / "a.tar.gz", pets(), more=(entry,)), settings, BadDataset)


def test_what_is_no_regular_file_is_left_out(tmp_path: Path, settings: Settings) -> None:
    more = (
        strange("folder", tarfile.DIRTYPE), strange("cat.77.png", tarfile.SYMTYPE, "/etc/passwd"),
        strange("cat.78.png", tarfile.LNKTYPE, "cat.0.png"), strange("cat.79.png", tarfile.CHRTYPE),
        strange("cat.80.png", tarfile.FIFOTYPE), strange("cat.81.png", tarfile.LNKTYPE, "../../etc/passwd"),
    )
    target = repack(pack_tar(tmp_path / "a.tar.gz", pets(), more=more), tmp_path / "a.zip", str, settings=settings)
    with Archive(target, settings) as archive:
        assert archive.names == list(pets())


def test_no_name_becomes_a_path(tmp_path: Path, settings: Settings) -> None:
    files = {"../../cat.1.png": b"x", "/etc/cat.1.png": b"x", "a/../../cat.2.png": b"x"}
    (tmp_path / "in").mkdir()
    target = repack(pack_tar(tmp_path / "in" / "a.tar.gz", files), tmp_path / "in" / "a.zip", str, settings=settings)
    assert {path.name for path in tmp_path.rglob("*")} == {"in", "a.tar.gz", "a.zip"}
    with pytest.raises(BadDataset, match="stay inside"):
        Archive(target, settings)


def refused(path: Path, settings: Settings, kind: type[BadDataset | TooLarge]) -> str:
    with pytest.raises(kind) as caught:
        repack(path, path.with_name("a.zip"), str, settings=settings)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert "Expected" in caught.value.message and "Received" in caught.value.message
    return str(caught.value.message)


def test_limits(tmp_path: Path, settings: Settings) -> None:
    path = tmp_path / "a.tar.gz"
    for files, said in (
        ({"cat.1.png": bytes(2**20 + 1)}, "'cat.1.png' with 1048577"),
        ({f"cat.{number}.png": b"" for number in range(101)}, "100 files"),
        ({f"cat.{number}.png": bytes(2**20) for number in range(5)}, "unpacks to at most 4194304"),
    ):
        assert said in refused(pack_tar(path, files), settings, TooLarge)


def test_also_what_is_left_out_or_behind_the_end_is_counted(tmp_path: Path, settings: Settings) -> None:
    path = pack_tar(tmp_path / "a.tar.gz", pets())
    path.write_bytes(path.read_bytes() + gzip.compress(bytes(8 * 2**20)))
    refused(path, settings, TooLarge)
    link = strange("cat.9.png", tarfile.SYMTYPE, "x")
    link.size = 8 * 2**20
    with gzip.open(path, "wb") as packed:
        packed.write(link.tobuf() + bytes(8 * 2**20))
    refused(path, settings, TooLarge)


@pytest.mark.parametrize("tenths", range(10))
def test_a_tar_that_is_cut_off(tenths: int, tmp_path: Path, settings: Settings) -> None:
    path = pack_tar(tmp_path / "a.tar.gz", pets())
    path.write_bytes(path.read_bytes()[: path.stat().st_size * tenths // 10])
    assert "damaged" in refused(path, settings, BadDataset)


@pytest.mark.parametrize(
    "data", [b"cat", gzip.compress(b""), gzip.compress(b"no tar" * 500), bytes(10_000)], ids=["text", "empty", "gzip", "zeros"],
)
def test_what_is_no_tar(data: bytes, tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "a.tar.gz").write_bytes(data)
    refused(tmp_path / "a.tar.gz", settings, BadDataset)


@hypothesis_settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4), inside=st.booleans())
def test_changed_bytes_give_the_same_files_or_a_refusal(
    changes: list[tuple[int, int]], inside: bool, tmp_path_factory: pytest.TempPathFactory, settings: Settings,
) -> None:
    path = pack_tar(tmp_path_factory.mktemp("changed") / "a.tar.gz", pets(2))
    data = bytearray(gzip.decompress(path.read_bytes()) if inside else path.read_bytes())
    for place, byte in changes:
        data[place % len(data)] = byte
    path.write_bytes(gzip.compress(data) if inside else data)
    try:
        target = repack(path, path.with_name("a.zip"), str, settings=settings)
    except (BadDataset, TooLarge):
        return
    if not inside:  # else the checksum is of the changed bytes
        with Archive(target, settings) as archive:
            assert {name: archive.read(name) for name in archive.names} == pets(2)
