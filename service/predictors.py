"""Predictors, Served: the models that answer now, swapped without a restart.

Once a second a thread reads where the aliases point. A new version is loaded aside: its files are checked, its golden pictures
answered, its session warm. Only then it takes over. A package that fails leaves the old one at work and is quarantined: it is not tried
again before its files are others, or somebody sets an alias by hand; /health/ready and /v1/models say why.

Another version is loaded when its number is asked for. One thread loads, one package at a time, and only so many may be waited for.
"""

import contextlib
import logging
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catdog.errors import CatdogError, CorruptPackage, NoModel, NotFound, Unavailable
from catdog.inference import Prediction, Predictor
from catdog.registry import Model, Registry
from service.batching import Batching

log = logging.getLogger("catdog.service.predictors")

DEFAULT_ALIAS = "champion"
READ_SECONDS = 1.0
KEPT_VERSIONS = 4
"""So many versions that no alias means and that were asked for by number stay loaded, some 100 MB each; the one that was not asked for
longest goes first."""
MOST_LOADS = 4
"""Versions that requests may wait for, the one that is being loaded included: a second or so each."""
MAX_DIGITS = 10
"""A number of so many digits is no version's."""


@dataclass(frozen=True, slots=True)
class Served:
    """A loaded model."""

    model: Model
    predictor: Predictor


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Why a package is not tried again as long as it looks the same."""

    message: str
    files: tuple[tuple[str, int, int], ...]
    """Name, bytes and time of change (ns) of each of its files."""


class Predictors:
    """Every model that is loaded, by alias and by version."""

    def __init__(self, registry: Registry, models: Path, *, device: str) -> None:
        self._registry = registry
        self._models = models
        self._device = device
        self._aliases: Mapping[str, Served] = {}  # replaced as a whole, so a reader never sees half a swap
        self._versions: dict[int, Served] = {}  # by number alone; the one asked for last is at the end
        self._wanted: Mapping[str, int] = {}  # where the aliases pointed when they were read last
        self._quarantine: Mapping[int, Quarantine] = {}
        self._loads: dict[int, Future[Served]] = {}  # that are under way, or wait for the thread
        self._loader = ThreadPoolExecutor(1, "load")
        self._changing = threading.Lock()  # of _versions and _loads
        self._woken = threading.Event()
        self._closing = False
        self._readable = True
        self._thread = threading.Thread(target=self._follow, name="predictors", daemon=True)
        self._batching = Batching(device)

    def start(self) -> None:
        """Begin to follow the aliases."""
        self._thread.start()

    def wake(self) -> None:
        """Say that somebody has set an alias: what is in quarantine gets another try."""
        self._quarantine = {}
        self._woken.set()

    def close(self) -> None:
        """Stop following; calls under way finish."""
        self._closing = True
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join()
        self._loader.shutdown(cancel_futures=True)
        self._batching.close()

    def serving(self) -> dict[str, int]:
        """The version that answers for each alias."""
        return {alias: served.model.version for alias, served in self._aliases.items()}

    def failures(self) -> dict[str, dict[str, Any]]:
        """By alias, the version that should answer and cannot, and why."""
        quarantined = self.quarantined()
        return {
            alias: {"version": version, "message": quarantined[version]}
            for alias, version in self._wanted.items() if version in quarantined
        }

    def quarantined(self) -> dict[int, str]:
        """The versions that could not be loaded here, and why."""
        return {version: quarantine.message for version, quarantine in self._quarantine.items()}

    def find(self, name: str | None) -> Served | None:
        """The model of an alias (None: the default one) or of a version's number, if it is loaded; waits for nothing."""
        if name is None or not name.isdecimal() or len(name) >= MAX_DIGITS:
            return self._aliases.get(DEFAULT_ALIAS if name is None else name)
        with self._changing:
            return self._loaded(int(name))

    def load(self, name: str | None) -> Future[Served]:
        """The model of an alias (None: the default one) or of a version's number, loaded if need be. Who asks meanwhile gets the same load.

        Raises:
            NoModel: no name was given and nothing has been published for the default alias.
            NotFound: no such alias or version.
            Unavailable: MOST_LOADS others are awaited.
            CorruptPackage: of the future: its package cannot be loaded.
        """
        model = self._registry.get(resolve(self._registry, name))  # what does not exist takes no place
        return self._begin(model, keep=True)

    def infer(self, served: Served, pixels: NDArray[np.uint8], *, explain: bool = False, alone: bool = False) -> Future[list[Prediction]]:
        """Answer pixels (N, S, S, 3) uint8 in a thread of ours; `alone`: nobody else asks now."""
        return self._batching.submit(served.predictor, pixels, explain=explain, alone=alone)

    def _follow(self) -> None:
        while not self._closing:
            self._woken.clear()
            try:
                self._look()
            except Exception as error:  # nobody would notice that this thread has died, and no model be swapped
                if self._readable:
                    log.warning("event=aliases_unreadable error=%r", error, exc_info=not isinstance(error, CatdogError))
                self._readable = False
            else:
                self._readable = True
            self._woken.wait(READ_SECONDS)

    def _look(self) -> None:
        wanted = self._registry.aliases()
        if wanted != self._wanted:  # somebody has set one, perhaps by another service
            self._quarantine = {}
        self._wanted = wanted
        for alias, version in wanted.items():
            current = self._aliases.get(alias)
            if current is None or current.model.version != version:
                self._swap(alias, version)

    def _swap(self, alias: str, version: int) -> None:
        try:
            served = self._begin(self._registry.get(version), keep=False).result()
        except (CorruptPackage, NotFound):
            return  # the log has it, and the quarantine; other aliases go on
        self._aliases = {**self._aliases, alias: served}
        with self._changing:
            self._versions.pop(version, None)
        log.info("event=model_served alias=%s version=%d", alias, version)

    def _begin(self, model: Model, *, keep: bool) -> Future[Served]:
        """Begin to load a model, unless it is loaded or somebody has; `keep`: because its number was asked for."""
        with self._changing:
            if (loading := self._loads.get(model.version)) is not None:
                return loading
            if (served := self._loaded(model.version)) is not None:
                done: Future[Served] = Future()
                done.set_result(served)
                return done
            if keep and len(self._loads) >= MOST_LOADS:
                raise Unavailable(f"Expected at most {MOST_LOADS} models that are awaited. Received: one more, version {model.version}.")
            loading = self._loads[model.version] = self._loader.submit(self._load, model, keep=keep)
            return loading

    def _load(self, model: Model, *, keep: bool) -> Served:
        try:
            with self._changing:
                served = self._loaded(model.version)  # an alias may have come to mean it since this load was asked for
            if served is not None:
                return served
            served = self._open(model)
            with self._changing:
                if keep:
                    self._versions = dict([*self._versions.items(), (model.version, served)][-KEPT_VERSIONS:])
            return served
        except CorruptPackage as error:
            message = f"Expected model {model.version} to be loadable. Received: {error.message}"
            raise CorruptPackage(message, remedy="Ask for another version, or train anew.") from error
        finally:
            with self._changing:
                del self._loads[model.version]

    def _loaded(self, version: int) -> Served | None:
        if (served := self._versions.pop(version, None)) is not None:
            self._versions[version] = served
            return served
        return next((served for served in self._aliases.values() if served.model.version == version), None)

    def _open(self, model: Model) -> Served:
        """Load a model, unless it is in quarantine; what cannot be loaded goes there."""
        version, folder = model.version, self._models / model.digest
        files = _files(folder)
        quarantine = self._quarantine.get(version)
        if quarantine is not None and quarantine.files == files:
            raise CorruptPackage(quarantine.message)
        try:
            served = Served(model, self._predictor(model, folder))
        except CorruptPackage as error:
            self._quarantine = {**self._quarantine, version: Quarantine(error.message, files)}
            log.error("event=model_quarantined version=%d reason=%r", version, error.message)
            raise
        self._quarantine = {number: other for number, other in self._quarantine.items() if number != version}
        return served

    def _predictor(self, model: Model, folder: Path) -> Predictor:
        predictor = Predictor.load(folder, device=self._device, shared=True, digest=model.digest)
        if list(predictor.labels) != model.labels:
            raise CorruptPackage(f"Expected the labels {model.labels} of model {model.version}. Received: {list(predictor.labels)}.")
        return predictor


def _files(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """What a package looks like from outside; empty where there is none."""
    with contextlib.suppress(OSError):  # a folder that is being put right changes while it is looked at
        facts = ((path, path.stat()) for path in sorted(folder.rglob("*")))
        return tuple((str(path.relative_to(folder)), fact.st_size, fact.st_mtime_ns) for path, fact in facts)
    return ()


def resolve(registry: Registry, name: str | None) -> int:
    """The version that an alias (None: the default one) or a number means; whether a number exists is not looked up.

    Raises:
        NoModel: no name was given and the default alias points nowhere.
        NotFound: there is no such alias.
    """
    if name is not None and name.isdecimal() and len(name) < MAX_DIGITS:
        return int(name)
    aliases = registry.aliases()
    if name is None and DEFAULT_ALIAS not in aliases:
        raise NoModel(f"Expected a published model under the alias {DEFAULT_ALIAS}. Received: none.")
    version = aliases.get(DEFAULT_ALIAS if name is None else name)
    if version is None:
        raise NotFound(
            f"Expected an alias or the number of a model version. Received: {str(name)[:200]!r}.", remedy="GET /v1/models lists them.",
        )
    return version
