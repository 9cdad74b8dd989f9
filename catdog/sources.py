"""check_archive, import_archive, import_folder, import_path, report, accept, draw, fetch_public, fetch_workshop: where data sets come from.

    public --> zip --.
               folder --> plan (names) -> build (staging folder) -> publish (dataset.json last) -> Dataset
               drawn --'
"""

import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from catdog import corpora
from catdog import report as reports
from catdog.archives import Archive
from catdog.census import Report, take
from catdog.config import DATASET_ID
from catdog.datasets import Dataset
from catdog.errors import (
    BadDataset,
    CatdogError,
    Conflict,
    DatasetChanged,
    NotFound,
    TooLarge,
    Unavailable,
    Unreachable,
    UnsupportedType,
)
from catdog.files import write_atomically
from catdog.folders import Folder
from catdog.plans import Labelling, Plan, plan, survey
from catdog.settings import Settings
from catdog.staging import build, discard, keep_report, publish, staged


def check_archive(path: Path, settings: Settings, labelling: Labelling | None = None) -> Plan:
    """Look at the directory of a zip, the names in it and its manifest, and at no picture: what an upload is refused for at once.

    Raises:
        UnsupportedType: not a zip.
        TooLarge: over a limit of `settings`.
        BadDataset: damaged, hostile, or names that make no data set (see plans.plan).
    """
    with Archive(path, settings) as archive:
        return plan(archive.names, labelling, archive.read)


def import_archive(
    path: Path, folder: Path, *, settings: Settings, labelling: Labelling | None = None, seed: int = 0, progress: Report = None,
) -> Dataset:
    """Turn a zip into the data set in `folder`, which holds none yet; on any error nothing of it remains but the report of an upload.

    Raises:
        UnsupportedType, TooLarge, BadDataset: as check_archive, and for what its pictures turn out to be.
        Conflict: there is a data set in `folder`.
        Unavailable: the disk is full.
    """
    _check_free(folder)
    with staged(folder) as staging:
        try:
            _build_from_archive(path, staging, settings=settings, labelling=labelling, seed=seed, progress=progress)
        except BadDataset:
            keep_report(staging, folder)
            raise
        return publish(staging, folder)


def import_folder(
    source: Path, datasets_folder: Path, *, settings: Settings, labelling: Labelling | None = None, seed: int = 0, progress: Report = None,
) -> Dataset:
    """Copy a folder of pictures into a data set whose id comes from its fingerprint: the same pictures again are the same data set.

    Links that lead out of the folder, and other things that are no regular file, are left out and listed.

    Raises:
        BadDataset: no folder, or it makes no data set. TooLarge: over a limit of `settings`. Unavailable: the disk is full.
    """
    with staged(datasets_folder / "folder") as staging:
        dataset = _build_from_folder(source, staging, settings=settings, labelling=labelling, seed=seed, progress=progress)
        return _publish_by_content(dataset, datasets_folder)


def import_path(
    source: Path, *, settings: Settings, labelling: Labelling | None = None, seed: int = 0, progress: Report = None,
) -> Dataset:
    """Import a folder or a zip of this machine into its data sets, with an id from the content.

    Raises:
        As import_folder and import_archive.
    """
    if source.is_dir():
        return import_folder(source, settings.datasets, settings=settings, labelling=labelling, seed=seed, progress=progress)
    if not source.is_file():
        raise BadDataset(f"Expected a folder or a zip of pictures. Received: {source}, which is neither.", remedy="Look at the path.")
    with staged(settings.datasets / "archive") as staging:
        dataset = _build_from_archive(source, staging, settings=settings, labelling=labelling, seed=seed, progress=progress)
        return _publish_by_content(dataset, settings.datasets)


def report(
    source: str, *, settings: Settings, labelling: Labelling | None = None, seed: int = 0, progress: Report = None,
) -> tuple[dict[str, Any], bytes]:
    """report.json and report.html of a folder or a zip that is not imported, or of a data set of this machine.

    What is wrong with the pictures is in the report; only what makes no plan at all is an error.

    Raises:
        BadDataset, UnsupportedType, TooLarge, NotFound: there is nothing to report on.
    """
    if re.fullmatch(DATASET_ID, source):
        folder = Dataset.open(settings.datasets / source).folder
        return json.loads((folder / "report.json").read_bytes()), (folder / "report.html").read_bytes()
    path = Path(source)
    if path.is_file():
        with Archive(path, settings) as archive:
            return _report(archive, survey(archive.names, labelling, archive.read), seed=seed, progress=progress)
    pictures = Folder(path, settings)
    planned = survey(pictures.names, labelling, pictures.read)
    planned.refused.extend(pictures.strange)
    return _report(pictures, planned, seed=seed, progress=progress)


def _report(pictures: Archive | Folder, planned: Plan, *, seed: int, progress: Report) -> tuple[dict[str, Any], bytes]:
    census = take(planned, pictures.read, pictures.modified, seed=seed, progress=progress)
    summary = reports.summarise(census, planned)
    return summary, reports.page(summary, census, lambda record: pictures.read(record.name))


def accept(folder: Path, settings: Settings, *, progress: Report = None) -> None:
    """Turn an accepted upload into a data set in its own folder: what the service's child does.

    Reads request.json (the fields of Labelling and `seed`; or `source`: drawn with `count` and `seed`, or a name of corpora.CORPORA with
    `seed`) and archive.zip; leaves dataset.json, or refused.json with code, message, remedy and offenders. Taken up again after a kill,
    it begins anew; what was downloaded stays.

    Raises:
        Unavailable: the disk is full; the upload is as it was.
    """
    with _alone(folder):
        for left in folder.parent.glob(f"{folder.name}.staging-*"):
            discard(left)
        try:
            if not ((folder / "dataset.json").exists() or (folder / "refused.json").exists()):
                _fulfil(_request(folder), folder, settings, progress)
        except Unreachable as error:  # perhaps for ever: whoever waits for it is told
            _refuse(folder, error)
        except Unavailable:  # not the uploader's fault: the upload is kept, to be tried again
            raise
        except CatdogError as error:
            _refuse(folder, error)
        (folder / "archive.zip").unlink(missing_ok=True)


def _refuse(folder: Path, error: CatdogError) -> None:
    refusal = {"code": error.code, "message": error.message, "remedy": error.remedy, "offenders": getattr(error, "offenders", [])}
    with write_atomically(folder / "refused.json") as path:
        path.write_text(json.dumps(refusal))


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


def fetch_public(name: str, *, settings: Settings, progress: Report = None) -> Path:
    """The zip of a public collection, one of corpora.CORPORA, downloaded if it is not on this machine.

    Raises:
        NotFound: an unknown name. And as corpora.fetch.
    """
    return corpora.fetch(corpora.find(name), settings.root / "downloads", settings=settings, progress=progress)


def fetch_workshop(folder: Path, *, settings: Settings | None = None, progress: Report = None) -> Path:
    """Download the workshop's photographs and lay them out as `folder`/dogs-vs-cats/{train,val,test}; return that folder.

    Raises:
        Unavailable: it cannot be downloaded now. BadDataset, UnsupportedType, TooLarge: what came is not what it was.
    """
    settings = settings or Settings.load()
    zipped = corpora.fetch(corpora.find("dogs-vs-cats"), folder, settings=settings, progress=progress)
    place = folder / "dogs-vs-cats"
    try:
        _lay_out(zipped, place, settings)
    except (BadDataset, TooLarge, UnsupportedType):
        zipped.unlink()  # whatever it is, it is not the photographs: the next call asks again
        raise
    return place


def _lay_out(zipped: Path, place: Path, settings: Settings) -> None:
    with staged(place) as staging, Archive(zipped, settings) as archive:
        for picture in plan(archive.names).pictures:
            # Only the last part of a name becomes one of ours, and Archive has seen to it that it is a plain one.
            path = staging / (picture.split or "") / picture.name.rpartition("/")[2]
            path.parent.mkdir(exist_ok=True)
            with path.open("xb") as file:
                file.write(archive.read(picture.name))
        shutil.rmtree(place, ignore_errors=True)
        staging.rename(place)


def _build_from_archive(
    path: Path, staging: Path, *, settings: Settings, labelling: Labelling | None, seed: int, progress: Report,
) -> Dataset:
    with Archive(path, settings) as archive:
        planned = plan(archive.names, labelling, archive.read)
        return build(staging, planned, archive.read, archive.modified, seed=seed, progress=progress)


def _build_from_folder(
    source: Path, staging: Path, *, settings: Settings, labelling: Labelling | None, seed: int, progress: Report,
) -> Dataset:
    folder = Folder(source, settings)
    planned = plan(folder.names, labelling, folder.read)
    planned.refused.extend(folder.strange)
    return build(staging, planned, folder.read, folder.modified, seed=seed, progress=progress)


def _publish_by_content(dataset: Dataset, datasets_folder: Path) -> Dataset:
    place = datasets_folder / f"ds_{dataset.fingerprint[:32]}"
    place.mkdir(parents=True, exist_ok=True)
    with _alone(place):
        present = _whole(place)
        # One that is damaged is made whole; else the pictures that jobs may be reading stay as they are.
        return publish(dataset.folder, place) if present is None else replace(present, refused=dataset.refused)


def _whole(place: Path) -> Dataset | None:
    """The data set in a folder, if every picture of it is there as it was imported."""
    try:
        dataset = Dataset.open(place)
        for record in dataset.records:
            dataset.read(record)
    except (NotFound, DatasetChanged):
        return None
    return dataset


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
        labelling = Labelling.model_validate({name: request[name] for name in Labelling.model_fields if name in request})
        import_archive(folder / "archive.zip", folder, settings=settings, labelling=labelling, seed=seed, progress=progress)
        return
    if request["source"] != "drawn":
        zipped = fetch_public(str(request["source"]), settings=settings, progress=progress)
        labelling = corpora.find(request["source"]).labelling
        import_archive(zipped, folder, settings=settings, labelling=labelling, seed=seed, progress=progress)
        return
    with staged(folder) as staging:
        drawn, built = staging / "drawn", staging / "built"
        draw(drawn, count=request.get("count", 240), seed=seed, progress=progress)
        built.mkdir()
        _build_from_folder(drawn, built, settings=settings, labelling=Labelling(rule="filename"), seed=seed, progress=progress)
        publish(built, folder)
