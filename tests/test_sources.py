"""sources.py and staging.py: from an archive, a folder or the pencil to a data set, or to nothing at all."""

import errno
import json
import os
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from catdog import staging
from catdog.datasets import Dataset
from catdog.errors import BadDataset, CatdogError, Conflict, NotFound, TooLarge, Unavailable
from catdog.plans import Labelling
from catdog.settings import Settings
from catdog.sources import accept, check_archive, draw, fetch_workshop, import_archive, import_folder, import_path
from tests.pictures import lay_out, pack, pets, picture


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings(data_dir=tmp_path / "data")
    settings.make_folders()
    return settings


def splits_of(dataset: Dataset) -> dict[str, str]:
    return {record.sha256: record.split for record in dataset.records}


def refused_import(files: dict[str, bytes], tmp_path: Path, settings: Settings, **options: object) -> BadDataset:
    with pytest.raises(BadDataset) as caught:
        import_archive(pack(tmp_path / "a.zip", files), settings.datasets / "ds_x", settings=settings, **options)  # type: ignore[arg-type]
    assert list(settings.datasets.iterdir()) == []
    return caught.value


def test_an_archive_becomes_a_data_set(tmp_path: Path, settings: Settings) -> None:
    said: list[tuple[int, int]] = []
    path = pack(tmp_path / "a.zip", {**pets(10, prefix="pets/"), "pets/LICENSE.txt": b"free", "pets/__MACOSX/x": b"", "pets/dir/": b""})
    folder = settings.datasets / "ds_archive"
    dataset = import_archive(path, folder, settings=settings, progress=lambda done, total: said.append((done, total)))
    assert dataset == Dataset.open(folder) and dataset.id == "ds_archive"
    assert [entry["name"] for entry in dataset.refused] == ["pets/LICENSE.txt"]
    assert {record.name.removeprefix("pets/"): dataset.read(record) for record in dataset.records} == pets(10)
    assert said == [(done, 20) for done in range(21)]
    assert [path.name for path in settings.datasets.iterdir()] == ["ds_archive"]
    assert len([path for path in (folder / "images").rglob("*") if path.is_file()]) == 20


def test_there_is_only_one_data_set_in_a_folder(tmp_path: Path, settings: Settings) -> None:
    path, folder = pack(tmp_path / "a.zip", pets()), settings.datasets / "ds_x"
    import_archive(path, folder, settings=settings)
    before = (folder / "dataset.json").stat()
    with pytest.raises(Conflict):
        import_archive(path, folder, settings=settings)
    assert (folder / "dataset.json").stat() == before


@hypothesis_settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.randoms(use_true_random=False), seed=st.integers(0, 2**32 - 1))
def test_file_order_and_names_do_not_change_the_split(order: random.Random, seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    tmp_path = tmp_path_factory.mktemp("order")
    settings = Settings(data_dir=tmp_path)
    files = list(pets(7).items())
    first = import_archive(pack(tmp_path / "a.zip", dict(files)), tmp_path / "one", settings=settings, seed=seed)
    order.shuffle(files)
    renamed = {f"other/{number:03}_{name.partition('.')[0]}.png": data for number, (name, data) in enumerate(files)}
    second = import_archive(pack(tmp_path / "b.zip", renamed), tmp_path / "two", settings=settings, seed=seed)
    assert splits_of(first) == splits_of(second) and first.fingerprint == second.fingerprint
    assert [record.sha256 for record in first.records] == [record.sha256 for record in second.records]
    contents = [{record.sha256 for record in first.split(split)} for split in ("train", "val", "test")]
    assert sum(map(len, contents)) == len(set.union(*contents)) == 14
    assert all(min(first.counts[split].values()) >= 1 for split in first.counts)


def test_label_order_is_as_asked_or_natural(tmp_path: Path, settings: Settings) -> None:
    files = {f"{label}/{number}.png": picture(100 * turn + number) for turn, label in enumerate(("b10", "b9", "a")) for number in range(6)}
    path = pack(tmp_path / "a.zip", files)
    assert import_archive(path, settings.datasets / "ds_1", settings=settings).labels == ("a", "b9", "b10")
    asked = Labelling(labels=("b10", "a", "b9"))
    assert import_archive(path, settings.datasets / "ds_2", settings=settings, labelling=asked).labels == ("b10", "a", "b9")


def test_a_copy_is_stored_once_and_listed(tmp_path: Path, settings: Settings) -> None:
    files = {**pets(), "cat.copy.png": pets()["cat.2.png"]}
    dataset = import_archive(pack(tmp_path / "a.zip", files), settings.datasets / "ds_x", settings=settings)
    assert dataset.refused == [{"name": "cat.copy.png", "kind": "duplicate", "reason": "the same file as cat.2.png"}]
    assert len(dataset.records) == 12


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_copy_across_splits_is_not_trained_on(split: str, tmp_path: Path, settings: Settings) -> None:
    files = {f"{split if int(name.split('.')[1]) > 5 else 'train'}/{name}": data for name, data in pets(12).items()}
    files["train/cat.leak.png"] = files[f"{split}/cat.7.png"]
    dataset = import_archive(pack(tmp_path / "a.zip", files), settings.datasets / "ds_x", settings=settings)
    assert dataset.refused == [{"name": "train/cat.leak.png", "kind": "duplicate", "reason": f"the same file as {split}/cat.7.png"}]
    assert [record.split for record in dataset.records if record.name == f"{split}/cat.7.png"] == [split]


def test_one_picture_with_two_labels_is_refused(tmp_path: Path, settings: Settings) -> None:
    error = refused_import({**pets(), "dog.same.png": pets()["cat.2.png"]}, tmp_path, settings)
    assert error.offenders == ["cat.2.png", "dog.same.png"] and "same content" in error.message


def test_a_broken_picture_is_left_out_and_listed(tmp_path: Path, settings: Settings) -> None:
    files = {**pets(), "cat.99.jpg": picture(5, kind="JPEG", size=(64, 64))[:-200], "dog.99.png": b"PK\x03\x04 not a picture"}
    dataset = import_archive(pack(tmp_path / "a.zip", files), settings.datasets / "ds_x", settings=settings)
    assert [entry["name"] for entry in dataset.refused] == ["cat.99.jpg", "dog.99.png"]
    assert all("Expected" in entry["reason"] for entry in dataset.refused)


def test_many_broken_pictures_are_refused(tmp_path: Path, settings: Settings) -> None:
    error = refused_import({**pets(), **{f"cat.9{number}.jpg": b"broken" for number in range(3)}}, tmp_path, settings)
    assert "3 of 9" in error.message and error.offenders == ["cat.90.jpg", "cat.91.jpg", "cat.92.jpg"]


def test_too_few_are_left_after_copies(tmp_path: Path, settings: Settings) -> None:
    files = {**pets(4), "cat.3.png": pets(4)["cat.2.png"]}
    assert "of cat" in refused_import(files, tmp_path, settings).message


def test_shared_photographs(shared_data: Callable[..., Path], tmp_path: Path, settings: Settings) -> None:
    source = shared_data("dogs_vs_cats")
    files = {f"{split}/{path.name}": path.read_bytes() for split in ("val", "test") for path in sorted((source / split).iterdir())[::20]}
    files |= {f"train/{path.name}": path.read_bytes() for path in sorted((source / "train").iterdir())[::50]}
    files |= {f"train/cat.{path.name}": path.read_bytes() for path in sorted(shared_data("hostile_images", "pngsuite").glob("x*.png"))[:2]}
    dataset = import_archive(pack(tmp_path / "a.zip", files), settings.datasets / "ds_x", settings=settings)
    assert dataset.counts == {"train": {"cat": 10, "dog": 10}, "val": {"cat": 5, "dog": 5}, "test": {"cat": 5, "dog": 5}}
    assert len(dataset.refused) == 2


def test_the_same_folder_again_is_the_same_data_set(tmp_path: Path, settings: Settings) -> None:
    source = lay_out(tmp_path / "source", pets())
    first = import_folder(source, settings.datasets, settings=settings)
    before = (first.folder / "dataset.json").stat()
    again = import_folder(source, settings.datasets, settings=settings)
    as_zip = import_path(pack(tmp_path / "a.zip", pets(prefix="in/")), settings=settings)
    assert first.id == again.id == as_zip.id and (first.folder / "dataset.json").stat() == before
    (source / "cat.7.png").write_bytes(picture(7777))
    assert import_path(source, settings=settings).id != first.id
    assert len(list(settings.datasets.iterdir())) == 2


def lose(dataset: Dataset) -> None:
    dataset.path(dataset.records[3]).unlink()


def spoil(dataset: Dataset) -> None:
    dataset.path(dataset.records[3]).write_bytes(picture(5))


def forget(dataset: Dataset) -> None:
    (dataset.folder / "records.jsonl").unlink()


def garble(dataset: Dataset) -> None:
    (dataset.folder / "dataset.json").write_text("{")


@pytest.mark.parametrize("damage", [lose, spoil, forget, garble])
def test_a_damaged_data_set_is_mended_by_the_same_pictures(damage: Callable[[Dataset], None], tmp_path: Path, settings: Settings) -> None:
    source = lay_out(tmp_path / "source", pets())
    dataset = import_folder(source, settings.datasets, settings=settings)
    damage(dataset)
    assert import_folder(source, settings.datasets, settings=settings) == dataset
    assert {record.name: dataset.read(record) for record in dataset.records} == pets()
    before = dataset.path(dataset.records[4]).stat()  # and one that is whole stays as it is: jobs may be reading it
    import_folder(source, settings.datasets, settings=settings)
    assert dataset.path(dataset.records[4]).stat() == before


def test_the_same_pictures_with_other_files_beside_them_say_what_was_left_out_this_time(tmp_path: Path, settings: Settings) -> None:
    first = import_folder(lay_out(tmp_path / "one", {**pets(), "notes.txt": b""}), settings.datasets, settings=settings)
    second = import_folder(lay_out(tmp_path / "two", {**pets(), "cat.9.png": b"broken"}), settings.datasets, settings=settings)
    assert first.id == second.id and [one["name"] for one in second.refused] == ["cat.9.png"]


def test_links_out_of_a_folder_are_not_followed(tmp_path: Path, settings: Settings) -> None:
    source = lay_out(tmp_path / "source", pets())
    secret = lay_out(tmp_path / "secret", {"cat.77.png": picture(77)})
    (source / "cat.77.png").symlink_to(secret / "cat.77.png")
    (source / "more").symlink_to(secret)
    os.mkfifo(source / "dog.88.png")
    dataset = import_path(source, settings=settings)
    assert {entry["name"]: entry["kind"] for entry in dataset.refused} == dict.fromkeys(("cat.77.png", "dog.88.png", "more"), "not_regular")
    assert len(dataset.records) == 12


def test_a_name_in_another_encoding_is_listed_and_the_rest_is_imported(tmp_path: Path, settings: Settings) -> None:
    source = lay_out(tmp_path / "source", pets())
    (source / os.fsdecode(b"cat.caf\xe9.png")).write_bytes(picture(99))
    dataset = import_path(source, settings=settings)
    (listed,) = dataset.refused
    assert listed["name"] == "cat.caf\\udce9.png" and "UTF-8" in listed["reason"] and len(dataset.records) == 12


def test_paths_that_are_nothing(tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(BadDataset, match="neither"):
        import_path(tmp_path / "nowhere", settings=settings)
    with pytest.raises(BadDataset, match="Expected a folder"):
        import_folder(tmp_path / "nowhere", settings.datasets, settings=settings)
    with pytest.raises(TooLarge, match="at most 11 files"):
        import_folder(lay_out(tmp_path / "s", pets()), settings.datasets, settings=Settings(data_dir=tmp_path, max_archive_files=11))
    with pytest.raises(BadDataset, match=r"6 of 6 \(cat\.0\.png.*at most 10 bytes"):
        import_folder(tmp_path / "s", settings.datasets, settings=Settings(data_dir=tmp_path, max_image_bytes=10))
    assert list(settings.datasets.iterdir()) == []


def test_a_file_that_is_too_large_is_left_out_and_the_rest_is_imported(tmp_path: Path, settings: Settings) -> None:
    source = lay_out(tmp_path / "source", {**pets(), "dog.9.png": picture(99) + bytes(2000)})
    dataset = import_folder(source, settings.datasets, settings=settings.model_copy(update={"max_image_bytes": 1000}))
    (listed,) = dataset.refused
    assert (listed["name"], listed["kind"]) == ("dog.9.png", "unreadable") and "at most 1000 bytes" in listed["reason"]


def test_a_full_disk_leaves_nothing(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []

    def write_bytes(path: Path, data: bytes) -> int:
        written.append(path)
        if len(written) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        with path.open("wb") as file:
            return file.write(data)

    path = pack(tmp_path / "a.zip", pets())
    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(Unavailable, match="No space left"):
        import_archive(path, settings.datasets / "ds_x", settings=settings)
    assert list(settings.datasets.iterdir()) == []


def upload(settings: Settings, files: dict[str, bytes], **request: object) -> Path:
    folder = settings.datasets / "ds_upload"
    folder.mkdir()
    (folder / "request.json").write_text(json.dumps({"labels": None, "rule": "auto", "seed": 0, **request}))
    pack(folder / "archive.zip", files)
    return folder


def test_an_upload_is_accepted(settings: Settings) -> None:
    folder = upload(settings, pets(), labels=["dog", "cat"], seed=5)
    accept(folder, settings)
    dataset = Dataset.open(folder)
    assert dataset.labels == ("dog", "cat") and dataset.id == "ds_upload"
    assert sorted(path.name for path in folder.iterdir()) == [
        "dataset.json", "images", "records.jsonl", "report.html", "report.json", "request.json",
    ]
    accept(folder, settings)
    assert Dataset.open(folder) == dataset


def test_an_upload_of_an_older_service_is_accepted(settings: Settings) -> None:
    """Its request.json knows neither pattern nor unlabelled."""
    folder = upload(settings, pets())
    (folder / "request.json").write_text('{"labels": null, "rule": "filename", "seed": 4}')
    accept(folder, settings)
    assert Dataset.open(folder).labels == ("cat", "dog")


def test_a_manifest_in_an_upload_says_labels_and_splits(settings: Settings) -> None:
    files = {f"in/{number}.png": picture(number) for number in range(24)}
    lines = [f"{number}.png,{'cat' if number % 2 else 'dog'},{('train', 'val', 'test')[number // 8]}" for number in range(24)]
    folder = upload(settings, {**files, "in/manifest.csv": "\r\n".join(["path,label,split", *lines]).encode()})
    accept(folder, settings)
    dataset = Dataset.open(folder)
    assert dataset.counts == {split: {"cat": 4, "dog": 4} for split in ("train", "val", "test")} and dataset.refused == []
    assert all(record.label == ("cat" if int(record.name[3:-4]) % 2 else "dog") for record in dataset.records)


def test_an_upload_is_refused(settings: Settings) -> None:
    folder = upload(settings, {**pets(), "catdog.png": picture(3)})
    accept(folder, settings)
    refusal = json.loads((folder / "refused.json").read_text())
    assert refusal["code"] == "bad_dataset" and refusal["offenders"] == ["catdog.png"]
    assert "Received" in refusal["message"] and refusal["remedy"]
    assert sorted(path.name for path in folder.iterdir()) == ["refused.json", "request.json"]
    with pytest.raises(NotFound):
        Dataset.open(folder)


def test_what_is_refused_for_its_pictures_keeps_its_report(settings: Settings) -> None:
    folder = upload(settings, {**pets(), **{f"cat.9{number}.png": b"broken" for number in range(4)}})
    accept(folder, settings)
    assert sorted(path.name for path in folder.iterdir()) == ["refused.json", "report.html", "report.json", "request.json"]
    report = json.loads((folder / "report.json").read_text())
    assert report["verdict"] == "refused" and [one["kind"] for one in report["refused"]] == ["unreadable"] * 4
    assert json.loads((folder / "refused.json").read_text())["message"] == report["findings"][0]["message"]


def test_a_full_disk_keeps_the_upload_for_another_try(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = upload(settings, pets())

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "no room")

    with monkeypatch.context() as patch:
        patch.setattr(staging, "_flush", full)
        with pytest.raises(Unavailable):
            accept(folder, settings)
    assert sorted(path.name for path in folder.iterdir()) == ["archive.zip", "request.json"]
    accept(folder, settings)
    assert Dataset.open(folder).labels == ("cat", "dog")


def test_what_a_killed_import_left_of_a_finished_one_is_removed(settings: Settings) -> None:
    folder = upload(settings, pets())
    archive = (folder / "archive.zip").read_bytes()
    accept(folder, settings)
    (folder / "archive.zip").write_bytes(archive)  # killed between the data set and its archive's end
    (settings.datasets / "ds_upload.staging-1-abc").mkdir()
    accept(folder, settings)
    assert not (folder / "archive.zip").exists()
    assert [path.name for path in settings.datasets.iterdir()] == ["ds_upload"]


def test_an_import_that_was_killed_is_begun_anew(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = upload(settings, pets())
    (settings.datasets / "ds_upload.staging-1-abc" / "images").mkdir(parents=True)
    lay_out(folder, {"images/aa/half": b"half", "records.jsonl": b"half"})
    with pytest.raises(NotFound):
        Dataset.open(folder)
    accept(folder, settings)
    dataset = Dataset.open(folder)
    stored = {path.name for path in (folder / "images").rglob("*") if path.is_file()}
    assert stored == {record.sha256 for record in dataset.records}
    assert [path.name for path in settings.datasets.iterdir()] == ["ds_upload"]


def test_a_data_set_exists_only_when_all_of_it_is_there(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped before any step of publishing: nobody sees a data set."""
    built, steps = tmp_path / "built", 0
    import_path(lay_out(tmp_path / "source", pets()), settings=settings).folder.rename(built)
    rename = Path.rename

    class Killed(BaseException):
        pass

    def killed(path: Path, target: Path) -> Path:
        nonlocal steps
        assert not (settings.datasets / "ds_x" / "dataset.json").exists()
        steps += 1
        if path.name == "dataset.json":
            raise Killed
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(Killed):
        staging.publish(built, settings.datasets / "ds_x")
    assert steps == 5
    with pytest.raises(NotFound):
        Dataset.open(settings.datasets / "ds_x")


def test_drawn_pictures_are_accepted(settings: Settings) -> None:
    folder = settings.datasets / "ds_drawn"
    folder.mkdir()
    (folder / "request.json").write_text(json.dumps({"source": "drawn", "count": 20, "seed": 3}))
    accept(folder, settings)
    assert Dataset.open(folder).counts["train"] == {"cat": 6, "dog": 6}
    assert [path.name for path in settings.datasets.iterdir()] == ["ds_drawn"]


def test_drawing_depends_on_seed_and_number_only(tmp_path: Path) -> None:
    for name, count, seed in (("a", 6, 1), ("b", 4, 1), ("c", 4, 2)):
        draw(tmp_path / name, count=count, seed=seed, size=64)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == sorted(f"{x}.{n}.jpg" for x in ("cat", "dog") for n in range(3))
    for path in (tmp_path / "b").iterdir():
        assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes()
        assert path.read_bytes() != (tmp_path / "c" / path.name).read_bytes()


def test_the_workshops_photographs_are_laid_out_by_split(tmp_path: Path, settings: Settings) -> None:
    """From a zip that was downloaded before: no network in this test."""
    files = {f"subset/{split}/{name}": data for split in ("train", "val", "test") for name, data in pets().items()}
    pack(tmp_path / "dogs-vs-cats.zip", {**files, "subset/LICENSE.txt": b"free"})
    folder = fetch_workshop(tmp_path, settings=settings)
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")} == {name.removeprefix("subset/") for name in files}
    assert fetch_workshop(tmp_path, settings=settings) == folder


def test_a_hostile_download_is_not_laid_out(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "in").mkdir()
    path = pack(tmp_path / "in" / "dogs-vs-cats.zip", pets())
    with zipfile.ZipFile(path, "a") as packed:
        packed.writestr("../cat.9.png", b"x")
    with pytest.raises(CatdogError):
        fetch_workshop(tmp_path / "in", settings=settings)
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["dogs-vs-cats.lock"] and not (tmp_path / "cat.9.png").exists()


def test_a_download_that_finds_no_room_is_kept(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    pack(tmp_path / "dogs-vs-cats.zip", pets())

    def full(_path: Path, _target: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(Unavailable):
        patch.setattr(Path, "rename", full)
        fetch_workshop(tmp_path, settings=settings)
    assert (tmp_path / "dogs-vs-cats.zip").exists() and not (tmp_path / "dogs-vs-cats").exists()
    assert len(list(fetch_workshop(tmp_path, settings=settings).iterdir())) == 12


def test_checking_reads_no_content(tmp_path: Path, settings: Settings) -> None:
    files = dict.fromkeys(pets(), b"no picture")
    planned = check_archive(pack(tmp_path / "a.zip", files), settings)
    assert {(picture.name, picture.label) for picture in planned.pictures} == {(name, name[:3]) for name in files}
