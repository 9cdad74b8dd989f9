"""Corpus, CORPORA, find, fetch: public collections of cats and dogs that can be had by name.

    address --download, sha256--> zip ---------------> <name>.zip -> imported like any zip
                               '-> tar.gz --repacked--'
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from filelock import FileLock

from catdog.archives import Archive
from catdog.downloads import Report, download, size_so_far
from catdog.errors import CatdogError, NotFound, Unavailable, Unreachable
from catdog.plans import Labelling
from catdog.settings import Settings
from catdog.tarballs import repack


@dataclass(frozen=True, slots=True)
class Corpus:
    """A public collection: where it lies, what its file must be, and how its names tell labels."""

    name: str
    title: str
    licence: str
    url: str
    sha256: str | None
    """Of the file, in hex. None: nobody has published one; the checksums inside the zip are what there is."""
    labelling: Labelling
    packed: Literal["zip", "tar.gz"] = "zip"
    folders: Mapping[str, str] = field(default_factory=dict)
    """Of a tar.gz: the folder of the zip for the entries whose whole name matches the regular expression; no others are taken."""


_WORKSHOP = Corpus(
    name="dogs-vs-cats", title="the workshop's subset of Dogs vs. Cats: 1,300 photographs in train, val and test",
    licence="see zenodo.org/records/10997322",
    url="https://zenodo.org/records/10997322/files/dogs_vs_cats_subset.zip?download=1", sha256=None, labelling=Labelling(),
)
_OXFORD = Corpus(
    name="oxford-pets", title="Oxford-IIIT Pet: 7,390 photographs of 12 breeds of cats and 25 of dogs, 755 MiB", licence="CC BY-SA 4.0",
    url="https://www.robots.ox.ac.uk/~vgg/data/pets/data/images.tar.gz",
    sha256="67195c5e1c01f1ab5f9b6a5d22b8c27a580d896ece458917e61d459337fa318d",  # as in TensorFlow Datasets' checksums
    labelling=Labelling(labels=("cat", "dog"), rule="folder"), packed="tar.gz",
    # By its README breeds of cats begin with a capital (Abyssinian_1.jpg), breeds of dogs do not (beagle_1.jpg).
    folders={"cat": r"images/[A-Z][A-Za-z_]*_[0-9]+\.jpg", "dog": r"images/[a-z][A-Za-z_]*_[0-9]+\.jpg"},
)
_MICROSOFT = Corpus(
    name="microsoft-cats-vs-dogs", title="Microsoft Cats vs. Dogs: 25,000 photographs, about 1,700 of them corrupt, 787 MiB",
    licence="CDLA-Permissive-2.0",
    url="https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/kagglecatsanddogs_5340.zip",
    sha256="b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9",  # as in GoMLX's example of it
    labelling=Labelling(labels=("cat", "dog"), rule="folder"),
)
CORPORA = {corpus.name: corpus for corpus in (_WORKSHOP, _OXFORD, _MICROSOFT)}


def find(name: str) -> Corpus:
    """The collection of this name.

    Raises:
        NotFound: there is none.
    """
    if name not in CORPORA:
        raise NotFound(f"Expected one of {', '.join(CORPORA)}. Received: {name[:100]!r}.", remedy="Take one of these names.")
    return CORPORA[name]


def fetch(corpus: Corpus, folder: Path, *, settings: Settings, progress: Report = None) -> Path:
    """Bring a collection to `folder`/<name>.zip, if it is not there, and return that path.

    A download that is cut off goes on by itself for as long as each try brings something, and at the next call where it stopped.
    Two that fetch the same one wait for each other. `progress` is told bytes: first of the download, then of the repacking.

    Raises:
        Unreachable: it cannot be downloaded from here.
        Unavailable: it cannot be written.
        UnsupportedType, TooLarge, BadDataset: what came is not what it was, or more than this machine takes.
    """
    zipped = folder / f"{corpus.name}.zip"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{corpus.name}.lock"):
            if not zipped.exists():
                _obtain(corpus, zipped, settings, progress)
    except OSError as error:
        message = f"Expected to write {zipped.name}. Received: {error.strerror or error}."
        raise Unavailable(message, remedy="Make room, or mend the permissions, where the downloads are kept.") from error
    return zipped


def _obtain(corpus: Corpus, zipped: Path, settings: Settings, progress: Report) -> None:
    file = zipped.with_name(f"{corpus.name}.{corpus.packed}")
    _download(corpus, file, settings, progress)
    try:
        if file != zipped:
            repack(file, zipped, lambda name: _placed(corpus, name), settings=settings, progress=progress)
            file.unlink()
        with Archive(zipped, settings):
            pass
    except CatdogError:
        for unusable in (file, zipped):  # whatever it is, it is not the collection: the next call asks again
            unusable.unlink(missing_ok=True)
        raise


def _download(corpus: Corpus, file: Path, settings: Settings, progress: Report) -> None:
    so_far = size_so_far(file)
    while True:
        try:
            download(corpus.url, file, sha256=corpus.sha256, limit=settings.max_archive_bytes, progress=progress)
            return
        except Unreachable:
            before, so_far = so_far, size_so_far(file)
            if so_far <= before:
                raise
            if progress is not None:
                progress(so_far, 0)  # how long the next try takes to begin, nobody knows


def _placed(corpus: Corpus, name: str) -> str | None:
    """The name in the zip of an entry of the tar."""
    for folder, pattern in corpus.folders.items():
        if re.fullmatch(pattern, name):
            return f"{folder}/{name.rpartition('/')[2]}"
    return None
