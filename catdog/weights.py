"""on_this_machine, path, verified, fetch: files of pretrained weights. Torch-free; only fetch touches the network.

A file is downloaded to `NAME.part`, which a later fetch goes on with, and gets its name when its sha256 is right.
"""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock

from catdog import catalogue
from catdog.catalogue import Network, Weights
from catdog.downloads import download
from catdog.errors import Unavailable, WeightsUnavailable
from catdog.files import sha256_of

Report = Callable[[int, int], None]
"""Told (bytes on disk, bytes in all) while a file comes in."""


def on_this_machine(name: str, weights_folder: Path | None) -> bool:
    """Whether the pretrained weights of a network lie on this machine; False where none exist.

    Raises:
        BadConfig: unknown name.
    """
    if catalogue.find(name).weights is None:
        return False
    try:
        return path(name, weights_folder).is_file()
    except WeightsUnavailable:
        return False


def path(name: str, weights_folder: Path | None) -> Path:
    """Where the weights file of a network lies, or would lie when fetched.

    Raises:
        BadConfig: unknown name.
        WeightsUnavailable: none exist, the registry package that carries them is not installed, or no folder is given.
    """
    network, weights = _weights_of(name)
    if network.package is not None:
        found = find_spec(network.package)
        if found is None or not found.submodule_search_locations:
            raise WeightsUnavailable(
                f"Expected the package {network.package}, which carries the weights of {name}. Received: it is not installed.",
                field="weights", remedy=f"Install {network.package.replace('_', '-')}, or set weights to none.",
            )
        return Path(found.submodule_search_locations[0]) / weights.file
    if weights_folder is None:
        raise WeightsUnavailable(f"Expected a folder with the weights of {name}. Received: none.", field="weights")
    return weights_folder / weights.file


def verified(name: str, weights_folder: Path | None) -> Path:
    """The weights file of a network, whose bytes have just been compared with its sha256.

    Raises:
        BadConfig: unknown name.
        WeightsUnavailable: it is not on this machine, or it is another file.
    """
    _, weights = _weights_of(name)
    file = path(name, weights_folder)
    if not file.is_file():
        raise WeightsUnavailable(
            f"Expected the pretrained weights of {name} on this machine. Received: no file {file}.",
            field="weights", remedy=f"Fetch them with `catdog models fetch {name}`, or set weights to none.",
        )
    digest = sha256_of(file)
    if not digest.startswith(weights.sha256):
        raise WeightsUnavailable(
            f"Expected a file whose sha256 begins with {weights.sha256}. Received: {file}, {digest[:16]}.",
            field="weights", remedy=f"Remove {file} and fetch it again with `catdog models fetch {name}`.",
        )
    return file


def fetch(name: str, weights_folder: Path, *, progress: Report | None = None) -> Path:
    """Bring the pretrained weights of a network to this machine, if they are not here, and return their file.

    Goes on where an interrupted download stopped. Two fetches of one file wait for each other.

    Raises:
        BadConfig: unknown name.
        WeightsUnavailable: none exist, they cannot be downloaded or written, or what came has another sha256.
    """
    _, weights = _weights_of(name)
    file = path(name, weights_folder)
    if weights.url is None:
        return verified(name, weights_folder)
    try:
        weights_folder.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_name(f"{file.name}.lock")):
            download(weights.url, file, sha256=weights.sha256, progress=progress)
        return verified(name, weights_folder)
    except Unavailable as error:
        raise WeightsUnavailable(
            error.message, field="weights",
            remedy=f"Look at the network and fetch again: it goes on where it stopped. Or bring the file by hand to {file}.",
        ) from error
    except OSError as error:
        raise WeightsUnavailable(
            f"Expected to write {file}. Received: {error.strerror or error}.", field="weights",
            remedy="Make room or mend the permissions, or set CATDOG_WEIGHTS_DIR to another folder.",
        ) from error


def _weights_of(name: str) -> tuple[Network, Weights]:
    network = catalogue.find(name)
    if network.weights is None:
        raise WeightsUnavailable(
            f"Expected a network with pretrained weights. Received: {name}, for which there are none.",
            field="weights", remedy="Set weights to none, or take another network.",
        )
    return network, network.weights
