"""check_archive, import_archive, import_folder, import_path, accept, draw, fetch_workshop, download: where data sets come from.

    zip ----.
    folder --+-> plan (names) -> build (staging folder) -> publish (dataset.json last) -> Dataset
    drawn --'
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from catdog.archives import Archive
from catdog.datasets import Dataset
from catdog.downloads import download
from catdog.errors import BadDataset, CatdogError, Conflict, TooLarge, Unavailable
from catdog.files import write_atomically
from catdog.labels import Planned, Rule, left_out, plan
from catdog.settings import Settings
from catdog.staging import Report, build, discard, publish, staged

__all__ = [
    "WORKSHOP_URL", "accept", "check_archive", "download", "draw", "fetch_workshop", "import_archive", "import_folder", "import_path",
]

WORKSHOP_URL = "https://zenodo.org/records/10997322/files/dogs_vs_cats_subset.zip?download=1"
"""The public subset of Dogs vs. Cats that the workshop trains on: about 1,300 photographs."""


def check_archive(path: Path, settings: Settings, labels: Sequence[str] | None = None, rule: Rule = "auto") -> list[Planned]:
    """Look at the directory of a zip and the names in it, and at no content: what an upload is refused for at once.

    Raises:
        UnsupportedType: not a zip.
        TooLarge: over a limit of `settings`.
        BadDataset: damaged, hostile, or names that make no data set (see labels.plan).
    """
    with Archive(path, settings) as archive:
        return plan(archive.names, labels, rule)


def import_archive(
    path: Path, folder: Path, *, settings: Settings, labels: Sequence[str] | None = None, rule: Rule = "auto", seed: int = 0,
    progress: Report = None,
) -> Dataset:
    """Turn a zip into the data set in `folder`, which holds none yet; on any error nothing of it remains.

    Raises:
        UnsupportedType, TooLarge, BadDataset: as check_archive, and for what its pictures turn out to be.
        Conflict: there is a data set in `folder`.
        Unavailable: the disk is full.
    """
    _check_free(folder)
    with staged(folder) as staging:
        _build_from_archive(path, staging, settings=settings, labels=labels, rule=rule, seed=seed, progress=progress)
        return publish(staging, folder)


def import_folder(
    source: Path, datasets_folder: Path, *, settings: Settings, labels: Sequence[str] | None = None, rule: Rule = "auto", seed: int = 0,
    progress: Report = None,
) -> Dataset:
    """Copy a folder of pictures into a data set whose id comes from its fingerprint: the same pictures again are the same data set.

    Links that lead out of the folder, and other things that are no regular file, are left out and listed.

    Raises:
        BadDataset: no folder, or it makes no data set. TooLarge: over a limit of `settings`. Unavailable: the disk is full.
    """
    with staged(datasets_folder / "folder") as staging:
        dataset = _build_from_folder(source, staging, settings=settings, labels=labels, rule=rule, seed=seed, progress=progress)
        return _publish_by_content(dataset, datasets_folder)


def import_path(
    source: Path, *, settings: Settings, labels: Sequence[str] | None = None, rule: Rule = "auto", seed: int = 0, progress: Report = None,
) -> Dataset:
    """Import a folder or a zip of this machine into its data sets, with an id from the content.

    Raises:
        As import_folder and import_archive.
    """
    if source.is_dir():
        return import_folder(source, settings.datasets, settings=settings, labels=labels, rule=rule, seed=seed, progress=progress)
    if not source.is_file():
        raise BadDataset(f"Expected a folder or a zip of pictures. Received: {source}, which is neither.", remedy="Look at the path.")
    with staged(settings.datasets / "archive") as staging:
        dataset = _build_from_archive(source, staging, settings=settings, labels=labels, rule=rule, seed=seed, progress=progress)
        return _publish_by_content(dataset, settings.datasets)


def accept(folder: Path, settings: Settings, *, progress: Report = None) -> None:
    """Turn an accepted upload into a data set in its own folder: what the service's child does.

    Reads request.json (`labels`, `rule`, `seed`, or `source`: drawn with `count` and `seed`) and archive.zip; leaves dataset.json,
    or refused.json with code, message, remedy and offenders. Taken up again after a kill, it begins anew.

    Raises:
        Unavailable: the disk is full; the upload is as it was.
    """
    with _alone(folder):
        for left in folder.parent.glob(f"{folder.name}.staging-*"):
            discard(left)
        try:
            if not ((folder / "dataset.json").exists() or (folder / "refused.json").exists()):
                _fulfil(_request(folder), folder, settings, progress)
        except Unavailable:  # not the uploader's fault: the upload is kept, to be tried again
            raise
        except CatdogError as error:
            refusal = {"code": error.code, "message": error.message, "remedy": error.remedy, "offenders": getattr(error, "offenders", [])}
            with write_atomically(folder / "refused.json") as path:
                path.write_text(json.dumps(refusal))
        (folder / "archive.zip").unlink(missing_ok=True)


def draw(
    folder: Path, *, count: int = 240, seed: int = 0, size: int = 256, progress: Callable[[int, int], None] | None = None,
) -> None:
    """Draw `count` pictures of `size` pixels a side into `folder`: cat.0.jpg, dog.0.jpg, cat.1.jpg, …

    Each picture depends on the seed and its own name only.
    """
    from catdog.drawing import LABELS, draw_picture  # numpy and Pillow's painting are for whoever draws

    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        label, turn = LABELS[number % len(LABELS)], number // len(LABELS)
        picture = draw_picture(label, Random(f"{seed}:{label}:{turn}"), size)
        picture.save(folder / f"{label}.{turn}.jpg", quality=90)
        if progress is not None:
            progress(number + 1, count)


def fetch_workshop(
    folder: Path, *, settings: Settings | None = None, url: str = WORKSHOP_URL, progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Download the workshop's photographs and lay them out as `folder`/dogs-vs-cats/{train,val,test}; return that folder.

    Raises:
        Unavailable: it cannot be downloaded now. BadDataset, UnsupportedType, TooLarge: what came is not what it was.
    """
    settings = settings or Settings.load()
    zipped = download(url, folder / "dogs-vs-cats.zip", limit=settings.max_archive_bytes, progress=progress)
    place = folder / "dogs-vs-cats"
    try:
        _lay_out(zipped, place, settings)
    except CatdogError:
        zipped.unlink()  # whatever it is, it is not the photographs: the next call asks again
        raise
    return place


def _lay_out(zipped: Path, place: Path, settings: Settings) -> None:
    with staged(place) as staging, Archive(zipped, settings) as archive:
        for picture in plan(archive.names):
            # Only the last part of a name becomes one of ours, and Archive has seen to it that it is a plain one.
            path = staging / (picture.split or "") / picture.name.rpartition("/")[2]
            path.parent.mkdir(exist_ok=True)
            with path.open("xb") as file:
                file.write(archive.read(picture.name))
        shutil.rmtree(place, ignore_errors=True)
        staging.rename(place)


def _build_from_archive(
    path: Path, staging: Path, *, settings: Settings, labels: Sequence[str] | None, rule: Rule, seed: int, progress: Report,
) -> Dataset:
    with Archive(path, settings) as archive:
        pictures = plan(archive.names, labels, rule)
        refused = left_out(archive.names)
        return build(staging, pictures, archive.read, labels=labels, refused=refused, seed=seed, progress=progress)


def _build_from_folder(
    source: Path, staging: Path, *, settings: Settings, labels: Sequence[str] | None, rule: Rule, seed: int, progress: Report,
) -> Dataset:
    if not source.is_dir():
        raise BadDataset(f"Expected a folder of pictures. Received: {source}, which is none.", remedy="Look at the path.")
    root, names, strange = source.resolve(), [], []
    for path in root.rglob("*"):
        if path.is_dir():
            continue
        name = path.relative_to(root).as_posix()
        if path.is_file() and path.resolve().is_relative_to(root):
            names.append(name)
        else:
            strange.append({"name": name, "reason": "not a regular file inside the folder"})
    if len(names) > settings.max_archive_files:
        limit = settings.max_archive_files
        raise TooLarge(f"Expected a folder of at most {limit} files. Received: {len(names)}.", limit=limit)

    def read(name: str) -> bytes:
        size, limit = (root / name).stat().st_size, settings.max_image_bytes
        if size > limit:
            raise TooLarge(f"Expected files of at most {limit} bytes. Received: {name} with {size}.", limit=limit)
        return (root / name).read_bytes()

    refused = [*left_out(sorted(names)), *strange]
    return build(staging, plan(names, labels, rule), read, labels=labels, refused=refused, seed=seed, progress=progress)


def _publish_by_content(dataset: Dataset, datasets_folder: Path) -> Dataset:
    place = datasets_folder / f"ds_{dataset.fingerprint[:32]}"
    place.mkdir(parents=True, exist_ok=True)
    with _alone(place):
        return Dataset.open(place) if (place / "dataset.json").exists() else publish(dataset.folder, place)


def _check_free(folder: Path) -> None:
    if (folder / "dataset.json").exists():
        raise Conflict(f"Expected a folder without a data set. Received: {folder.name}, which is one.", remedy="Import under another id.")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process works on this folder. The kernel lets go of the lock when its holder dies."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _request(folder: Path) -> dict[str, Any]:
    try:
        request = json.loads((folder / "request.json").read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise BadDataset(f"Expected request.json as it was written. Received: {error}.") from error
    return dict(request)


def _fulfil(request: dict[str, Any], folder: Path, settings: Settings, progress: Report) -> None:
    seed = request.get("seed", 0)
    if "source" not in request:
        labels, rule = request.get("labels"), request.get("rule", "auto")
        import_archive(folder / "archive.zip", folder, settings=settings, labels=labels, rule=rule, seed=seed, progress=progress)
        return
    if request["source"] != "drawn":
        raise BadDataset(f"Expected the source drawn. Received: {request['source']!r}.")
    with staged(folder) as staging:
        drawn, built = staging / "drawn", staging / "built"
        draw(drawn, count=request.get("count", 240), seed=seed, progress=progress)
        built.mkdir()
        _build_from_folder(drawn, built, settings=settings, labels=None, rule="filename", seed=seed, progress=progress)
        publish(built, folder)
