"""archives.py: zips by people who mean harm, or whose upload broke. Each is refused, and leaves nothing behind anywhere."""

import io
import stat
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from catdog.archives import Archive
from catdog.census import take
from catdog.errors import BadDataset, CatdogError, TooLarge, UnsupportedType
from catdog.plans import plan
from catdog.settings import Settings
from catdog.sources import check_archive, import_archive, report
from tests.pictures import pack, pets, picture


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings(data_dir=tmp_path / "data", max_image_bytes=3 * 2**20, max_unpacked_bytes=8 * 2**20, max_archive_files=100)
    settings.make_folders()
    return settings


@pytest.fixture
def untouched(tmp_path: Path, settings: Settings) -> Iterator[Path]:
    """A folder to build the archive in; afterwards nothing may have appeared beside the data sets, or among them."""
    upload = tmp_path / "upload"
    upload.mkdir()
    before = {path for path in tmp_path.rglob("*") if upload not in path.parents}
    yield upload
    assert {path for path in tmp_path.rglob("*") if upload not in path.parents} == before


def refused(path: Path, settings: Settings, kind: type[CatdogError] = BadDataset) -> CatdogError:
    """Refused from the directory alone, and by the import."""
    with pytest.raises(kind):
        check_archive(path, settings)
    return refused_by_import(path, settings, kind)


def refused_by_import(path: Path, settings: Settings, kind: type[CatdogError] = BadDataset) -> CatdogError:
    with pytest.raises(kind) as caught:
        import_archive(path, settings.datasets / "ds_test", settings=settings)
    assert "Expected" in caught.value.message and "Received" in caught.value.message
    return caught.value


def with_entry(path: Path, info: zipfile.ZipInfo, data: bytes = b"x") -> Path:
    pack(path, pets())
    with zipfile.ZipFile(path, "a") as packed:
        packed.writestr(info, data)
    return path


def patched(path: Path, old: bytes, new: bytes) -> Path:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))
    return path


@pytest.mark.parametrize(
    "name",
    [
        "../cat.jpg", "a/../../cat.jpg", "/etc/cat.jpg", "..\\cat.jpg", "C:cat.jpg", "C:/cat.jpg", "\\\\host\\cat.jpg", "a//cat.jpg",
        "./cat.jpg", "a/. /cat.jpg", "a./cat.jpg", "cat.jpg ", "ca\nt.jpg", "cat\x1b[2J.jpg", "../", "~/../cat.jpg",
    ],
)
def test_names_that_lead_out(name: str, untouched: Path, settings: Settings) -> None:
    error = refused(with_entry(untouched / "a.zip", zipfile.ZipInfo(name)), settings)
    assert isinstance(error, BadDataset) and error.offenders == [ascii(name)[1:-1]]
    assert "stay inside" in error.message and "\n" not in error.message


def test_a_name_that_ends_early(untouched: Path, settings: Settings) -> None:
    path = with_entry(untouched / "a.zip", zipfile.ZipInfo("cat.7.jpgXtxt"))
    assert "stay inside" in refused(patched(path, b"cat.7.jpgXtxt", b"cat.7.jpg\0txt"), settings).message


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK, stat.S_IFREG | stat.S_ISUID])
def test_what_is_no_plain_file(kind: int, untouched: Path, settings: Settings) -> None:
    info = zipfile.ZipInfo("cat.77.jpg")
    info.external_attr = (kind | 0o644) << 16
    assert "regular files" in refused(with_entry(untouched / "a.zip", info, b"/etc/passwd"), settings).message


def test_an_encrypted_file(untouched: Path, settings: Settings) -> None:
    path = pack(untouched / "a.zip", pets())
    data = bytearray(path.read_bytes())
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + place] |= 1
    path.write_bytes(data)
    error = refused(path, settings)
    assert "password" in error.message and "cat.0.png" in error.message


@pytest.mark.parametrize(("one", "other"), [("cat.1.PNG", "cat.1.png"), ("caf\u00e9/cat.1.png", "cafe\u0301/cat.1.png"), ("Cat/", "cat/")])
def test_names_that_are_the_same_elsewhere(one: str, other: str, untouched: Path, settings: Settings) -> None:
    files = {**pets(), one: b"" if one.endswith("/") else picture(1), other: b"" if one.endswith("/") else picture(2)}
    assert "different names" in refused(pack(untouched / "a.zip", files), settings).message


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_the_same_name_twice(untouched: Path, settings: Settings) -> None:
    assert "different names" in refused(with_entry(untouched / "a.zip", zipfile.ZipInfo("cat.1.png")), settings).message


def test_an_archive_in_the_archive(untouched: Path, settings: Settings) -> None:
    inner = pack(untouched / "inner.zip", pets()).read_bytes()
    assert "more.ZIP" in refused(pack(untouched / "a.zip", {**pets(), "more.ZIP": inner}), settings).message


def test_too_deep(untouched: Path, settings: Settings) -> None:
    deep = "/".join("abcdef")
    assert len(check_archive(pack(untouched / "a.zip", {**pets(), f"{deep}/cat.9.png": picture(9)}), settings).pictures) == 13
    assert "6 folders" in refused(pack(untouched / "b.zip", {**pets(), f"{deep}/g/cat.9.png": picture(9)}), settings).message


def test_a_ratio_that_no_picture_has(untouched: Path, settings: Settings) -> None:
    assert "100 times" in refused(pack(untouched / "a.zip", {**pets(), "cat.9.bmp": bytes(2 * 2**20)}), settings).message


def test_files_that_share_their_bytes(untouched: Path, settings: Settings) -> None:
    path = pack(untouched / "a.zip", {"cat.1.png": picture(1), "cat.2.png": picture(2)}, method=zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    directory = data.index(b"PK\x01\x02")
    second = data.index(b"PK\x01\x02", directory + 4)
    data[second + 42 : second + 46] = struct.pack("<L", 0)  # both entries are the first one's bytes
    path.write_bytes(data)
    assert "share bytes" in refused(path, settings).message


def test_a_file_that_reaches_into_the_directory(untouched: Path, settings: Settings) -> None:
    path = pack(untouched / "a.zip", pets(), method=zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    last = data.rindex(b"PK\x01\x02")
    size = struct.unpack("<L", data[last + 20 : last + 24])[0] + 40
    data[last + 20 : last + 28] = struct.pack("<LL", size, size)
    path.write_bytes(data)
    assert "share bytes" in refused(path, settings).message


@pytest.mark.parametrize("change", [-3, 3])
def test_a_directory_that_lies_about_a_size(change: int, untouched: Path, settings: Settings) -> None:
    path = pack(untouched / "a.zip", pets())
    data = bytearray(path.read_bytes())
    first = data.index(b"PK\x01\x02")
    size = struct.unpack("<L", data[first + 24 : first + 28])[0]
    data[first + 24 : first + 28] = struct.pack("<L", size + change)
    path.write_bytes(data)
    assert "cat.0.png" in refused_by_import(path, settings).message


def test_a_bomb_whose_directory_says_it_is_small(untouched: Path, settings: Settings) -> None:
    path = pack(untouched / "a.zip", {"cat.0.png": bytes(64 * 2**20), **pets(prefix="more/")})
    data = bytearray(path.read_bytes())
    first = data.index(b"PK\x01\x02")
    data[first + 24 : first + 28] = struct.pack("<L", 1000)
    path.write_bytes(data)
    assert "damaged" in refused_by_import(path, settings).message


def test_changed_bytes(untouched: Path, settings: Settings) -> None:
    path = pack(untouched / "a.zip", pets(), method=zipfile.ZIP_STORED)
    patched(path, picture(3), picture(3)[:-5] + b"wrong")
    assert "cat.3.png" in refused_by_import(path, settings).message


@pytest.mark.parametrize("tenths", range(1, 10))
def test_a_cut_off_upload(tenths: int, untouched: Path, settings: Settings) -> None:
    path = pack(untouched / "a.zip", pets())
    path.write_bytes(path.read_bytes()[: path.stat().st_size * tenths // 10])
    assert "cut off" in refused(path, settings).message


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_rare_methods(method: int, untouched: Path, settings: Settings) -> None:
    assert "deflated" in refused(pack(untouched / "a.zip", pets(), method=method), settings).message


def test_an_empty_archive_one_label_and_no_pictures(untouched: Path, settings: Settings) -> None:
    assert "no files" in refused(pack(untouched / "empty.zip", {}), settings).message
    cats = {name: data for name, data in pets().items() if "cat" in name}
    assert "all of cat" in refused(pack(untouched / "cats.zip", cats), settings).message
    assert "none among 1 files" in refused(pack(untouched / "text.zip", {"a.txt": b"cat"}), settings).message


@pytest.mark.parametrize("data", [b"", b"cat", picture(1), bytes(100_000)])
def test_what_is_no_zip(data: bytes, untouched: Path, settings: Settings) -> None:
    path = untouched / "a.zip"
    path.write_bytes(data)
    refused(path, settings, UnsupportedType)


def test_other_archives(untouched: Path, settings: Settings) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
        packed.addfile(tarfile.TarInfo("cat.1.jpg"))
    (untouched / "a.zip").write_bytes(buffer.getvalue())
    refused(untouched / "a.zip", settings, UnsupportedType)


def test_something_before_the_archive(untouched: Path, settings: Settings) -> None:
    path = pack(untouched / "a.zip", pets())
    whole = path.read_bytes()
    path.write_bytes(b"#!/bin/sh\n" + whole)
    refused(path, settings, UnsupportedType)
    path.write_bytes(b"PK\x03\x04" + whole)
    assert "before" in refused(path, settings).message


def test_limits(untouched: Path, settings: Settings) -> None:
    noise = {f"cat.{number}.bmp": bytes(range(256)) * 4096 * 2 for number in range(9)}
    for files, said in (
        ({**pets(), "cat.9.bmp": bytes(4 * 2**20)}, "cat.9.bmp"),
        ({**pets(), **noise}, "unpacks to"),
        ({f"cat.{number}.png": b"" for number in range(101)}, "100 files"),
    ):
        error = refused(pack(untouched / "a.zip", files, method=zipfile.ZIP_STORED), settings, TooLarge)
        assert said in error.message and isinstance(error, TooLarge) and error.limit
    small = Settings(data_dir=settings.data_dir, max_archive_bytes=100)
    assert "at most 100 bytes" in refused(pack(untouched / "a.zip", pets()), small, TooLarge).message


def test_a_directory_without_end_is_not_loaded(untouched: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its entries are counted before zipfile makes objects of them."""
    path = pack(untouched / "a.zip", {f"cat.{number}.png": b"" for number in range(101)})

    def load(*_: object) -> None:
        raise AssertionError("zipfile loaded it")

    monkeypatch.setattr(zipfile, "ZipFile", load)
    with pytest.raises(TooLarge):
        Archive(path, settings)


def test_a_zip64_archive_is_read(untouched: Path, settings: Settings) -> None:
    path = untouched / "a.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for name, data in pets().items():
            with packed.open(name, "w", force_zip64=True) as entry:
                entry.write(data)
    body = path.read_bytes()
    place = body.rindex(b"PK\x05\x06")
    length, start = struct.unpack("<LL", body[place + 12 : place + 20])
    with Archive(with_record_64(path, directory=(length, start), at=place), settings) as archive:
        assert {name: archive.read(name) for name in archive.names} == pets()


def test_an_archive_of_as_much_as_may_be_is_read_twice(untouched: Path, settings: Settings) -> None:
    """Once for what is in it, once for the pictures that the page shows. It unpacks to what its directory says."""
    path, size = pack(untouched / "a.zip", pets()), sum(map(len, pets().values()))
    summary, page = report(str(path), settings=settings.model_copy(update={"max_unpacked_bytes": size}))
    assert summary["images"] == 12 and page.count(b"data:image/jpeg") > 12
    with pytest.raises(TooLarge, match=f"at most {size - 1} bytes. Received: {size}"):
        report(str(path), settings=settings.model_copy(update={"max_unpacked_bytes": size - 1}))


def test_what_is_read_is_what_was_packed(untouched: Path, settings: Settings) -> None:
    with Archive(pack(untouched / "a.zip", pets()), settings) as archive:
        assert {name: archive.read(name) for name in archive.names} == pets()


def with_record_64(path: Path, *, directory: tuple[int, int], at: int, before: bytes = b"", told: int | None = None) -> Path:
    """Put a zip64 end record that says (length, start) of a directory, and whose locator names `told`, behind `at` bytes."""
    body = path.read_bytes()[:at] + before
    record = struct.pack("<4sQHHLLQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 12, 12, *directory)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, len(body) if told is None else told, 1)
    last = struct.pack("<4sHHHHLLH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(body + record + locator + last)
    return path


def test_two_zip64_records_of_which_each_reader_takes_another(untouched: Path, settings: Settings) -> None:
    """CVE-2025-8291: what is checked must be what is read, or a directory without end passes behind a short one."""
    many = pack(untouched / "many.zip", {f"cat.{number}.png": b"" for number in range(101)}).read_bytes()
    end = many.rindex(b"PK\x05\x06")
    length, start = struct.unpack("<LL", many[end + 12 : end + 20])
    path = pack(untouched / "a.zip", pets())
    body = path.read_bytes()
    place = body.rindex(b"PK\x05\x06")
    honest = struct.unpack("<LL", body[place + 12 : place + 20])
    with_record_64(path, directory=honest, at=place)
    shown = path.read_bytes()[: place + 56]
    path.write_bytes(shown)
    with_record_64(path, directory=(length, len(shown) + start), at=len(shown), before=many[:end], told=place)
    assert "zip64" in refused(path, settings).message


@pytest.mark.parametrize("change", [-1, 1, 10**6, 2**62])
def test_a_zip64_record_that_is_not_where_it_is_said_to_be(change: int, untouched: Path, settings: Settings) -> None:
    path = pack(untouched / "a.zip", pets())
    body = path.read_bytes()
    place = body.rindex(b"PK\x05\x06")
    length, start = struct.unpack("<LL", body[place + 12 : place + 20])
    with_record_64(path, directory=(length, start), at=place, told=place + change)
    assert "zip64" in refused(path, settings).message


def test_a_long_comment_harms_nothing(untouched: Path, settings: Settings) -> None:
    path = pack(untouched / "a.zip", pets())
    with zipfile.ZipFile(path, "a") as packed:
        packed.comment = b"x" * 65_535
    assert len(check_archive(path, settings).pictures) == 12
    path.write_bytes(path.read_bytes() + b"x")
    assert "cut off" in refused(path, settings).message


def test_a_directory_in_the_comment_is_not_believed(untouched: Path, settings: Settings) -> None:
    path = pack(untouched / "a.zip", pets())
    with zipfile.ZipFile(path, "a") as packed:
        packed.comment = struct.pack("<4s4xHHLLH", b"PK\x05\x06", 0, 0, 0, 0, 0)
    refused(path, settings)


def test_a_part_of_a_split_archive(untouched: Path, settings: Settings) -> None:
    path = pack(untouched / "a.zip", pets())
    data = bytearray(path.read_bytes())
    end = data.rindex(b"PK\x05\x06")
    data[end + 4 : end + 8] = struct.pack("<HH", 1, 1)
    path.write_bytes(data)
    assert "split" in refused(path, settings).message


@pytest.mark.parametrize("method", [1, 9, 93, 99])
def test_methods_that_nobody_here_knows(method: int, untouched: Path, settings: Settings) -> None:
    path = pack(untouched / "a.zip", pets())
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        place = data.index(signature) + offset
        data[place : place + 2] = struct.pack("<H", method)
    path.write_bytes(data)
    assert "deflated" in refused(path, settings).message


@pytest.mark.parametrize("head", [b"7z\xbc\xaf'\x1c", b"Rar!\x1a\x07\x01\x00", b"\xfd7zXZ\x00", b"BZh9", b"PK00PK\x03\x04", b"\x1f\x8b"])
def test_archives_of_other_kinds(head: bytes, untouched: Path, settings: Settings) -> None:
    (untouched / "a.zip").write_bytes(head + bytes(1000))
    refused(untouched / "a.zip", settings, UnsupportedType)


def test_a_folder_that_is_a_link_with_files_in_it(untouched: Path, settings: Settings) -> None:
    link = zipfile.ZipInfo("photos")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    path = with_entry(untouched / "a.zip", link, b"/etc")
    with zipfile.ZipFile(path, "a") as packed:
        packed.writestr("photos/cat.9.png", picture(9))
    assert "regular files" in refused(path, settings).message


def test_a_file_that_reaches_over_the_next_ones(untouched: Path, settings: Settings) -> None:
    """Bytes that quote the headers of other entries, which are unpacked once more by themselves (D. Fifield, A better zip bomb, 2019)."""
    path = pack(untouched / "a.zip", pets(), method=zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    first = data.index(b"PK\x01\x02")
    second = data.index(b"PK\x01\x02", first + 4)
    size = struct.unpack("<L", data[second + 42 : second + 46])[0] + 10
    data[first + 20 : first + 28] = struct.pack("<LL", size, size)
    path.write_bytes(data)
    assert "share bytes" in refused(path, settings).message


def test_an_archive_that_is_called_a_picture_is_never_opened(untouched: Path, settings: Settings) -> None:
    inner = pack(untouched / "inner.zip", pets()).read_bytes()
    path = pack(untouched / "a.zip", {**pets(), "cat.9.jpg": inner, "dog.9.jpg": b"\x1f\x8b" + bytes(99)})
    with Archive(path, settings) as archive:
        planned = plan(archive.names)
        census = take(planned, archive.read, archive.modified, seed=0)
    assert [(one.name, one.kind) for one in census.refused] == [("cat.9.jpg", "unreadable"), ("dog.9.jpg", "unreadable")]
    assert len(census.records) == 12


@pytest.mark.parametrize(("files", "said"), [
    ({"cat.1.png": picture(1)}, "all of cat"),
    ({"cat.1.png": picture(1), "dog.1.png": picture(2)}, "(of 1)"),
    ({f"breed{number}/1.png": b"" for number in range(1001)}, "1000 label folders"),
    ({"__MACOSX/._cat.1.png": b"x", ".DS_Store": b"x", "Thumbs.db": b"x", ".ipynb_checkpoints/cat.2.png": b"x"}, "no files"),
    ({f"{folder}/{name}": b"" for folder, each in (("cat", 7), ("dog", 2)) for name in pets(each)}, "of dog"),
], ids=["one picture", "one of each", "a thousand labels and one", "only litter", "few of one"])
def test_odd_sets_have_a_verdict(files: dict[str, bytes], said: str, untouched: Path, settings: Settings) -> None:
    settings = settings.model_copy(update={"max_archive_files": 100_000})
    error = refused(pack(untouched / "a.zip", files, method=zipfile.ZIP_STORED), settings)
    assert said in error.message and isinstance(error, BadDataset) and len(error.offenders) <= 100 and len(error.message) < 1000


def test_an_empty_folder_is_no_label(untouched: Path, settings: Settings) -> None:
    files = {f"{name[:3]}/{name}": data for name, data in pets().items()} | {"bird/": b""}
    assert check_archive(pack(untouched / "a.zip", files), settings).labels == ["cat", "dog"]


@pytest.mark.parametrize(("stamp", "told"), [
    ((2024, 2, 29, 12, 30, 58), 1_709_209_858), ((1980, 0, 0, 0, 0, 0), None), ((2107, 15, 31, 31, 63, 62), None),
])
def test_when_a_file_was_changed(stamp: tuple[int, ...], told: int | None, untouched: Path, settings: Settings) -> None:
    path = pack(untouched / "a.zip", pets(), method=zipfile.ZIP_STORED)
    year, month, day, hour, minute, second = stamp
    data = bytearray(path.read_bytes())
    place = data.index(b"PK\x01\x02") + 12
    data[place : place + 4] = struct.pack("<HH", hour << 11 | minute << 5 | second // 2, (year - 1980) << 9 | month << 5 | day)
    path.write_bytes(data)
    with Archive(path, settings) as archive:
        assert archive.modified("cat.0.png") == told
