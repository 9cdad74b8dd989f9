"""Predictors, Served: the models that answer now, swapped without a restart.

Once a second a thread reads where the aliases point. A new version is loaded aside: its files are checked, its golden pictures
answered, its session warm. Only then it takes over. A package that fails leaves the old one at work, and /health/ready says so.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future
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
RETRY_SECONDS = 30.0
"""A package that failed is tried again after so long: its files may have been put right."""
KEPT_VERSIONS = 2
"""Versions that were asked for by number stay loaded, this many of them."""


@dataclass(frozen=True, slots=True)
class Served:
    """A loaded model."""

    model: Model
    predictor: Predictor


@dataclass(frozen=True, slots=True)
class Failure:
    """A version that an alias points to and that cannot be loaded."""

    version: int
    message: str
    at: float
    """By the monotonic clock."""


class Predictors:
    """Every model that is loaded, by alias and by version."""

    def __init__(self, registry: Registry, models: Path, *, device: str) -> None:
        self._registry = registry
        self._models = models
        self._device = device
        self._aliases: Mapping[str, Served] = {}  # replaced as a whole, so a reader never sees half a swap
        self._versions: OrderedDict[int, Served] = OrderedDict()
        self._failures: Mapping[str, Failure] = {}
        self._loading = threading.RLock()
        self._woken = threading.Event()
        self._closing = False
        self._readable = True
        self._thread = threading.Thread(target=self._follow, name="predictors", daemon=True)
        self._batching = Batching(device)

    def start(self) -> None:
        """Begin to follow the aliases."""
        self._thread.start()

    def wake(self) -> None:
        """Say that an alias may have moved."""
        self._woken.set()

    def close(self) -> None:
        """Stop following; calls under way finish."""
        self._closing = True
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join()
        self._batching.close()

    def serving(self) -> dict[str, int]:
        """The version that answers for each alias."""
        return {alias: served.model.version for alias, served in self._aliases.items()}

    def failures(self) -> dict[str, dict[str, Any]]:
        """By alias, the version that should answer and cannot, and why."""
        return {alias: {"version": failure.version, "message": failure.message} for alias, failure in self._failures.items()}

    def find(self, name: str | None) -> Served | None:
        """The loaded model of an alias (None: the default one), without waiting for anything."""
        return self._aliases.get(DEFAULT_ALIAS if name is None else name)

    def get(self, name: str | None) -> Served:
        """The model of an alias (None: the default one) or of a version's number, loaded now if need be. May take a second.

        Raises:
            NoModel: no name was given and nothing has been published for the default alias.
            NotFound: no such alias or version.
            Unavailable: its package cannot be loaded.
        """
        version = resolve(self._registry, name)
        try:
            return self._load(version)
        except CorruptPackage as error:
            raise Unavailable(
                f"Expected model {version} to be loadable. Received: {error.message}", remedy="Ask for another version, or train anew.",
            ) from error

    def infer(self, served: Served, pixels: NDArray[np.uint8], *, alone: bool = False) -> Future[list[Prediction]]:
        """Answer pixels (N, S, S, 3) uint8 in a thread of ours; `alone`: nobody else asks now."""
        return self._batching.submit(served.predictor, pixels, alone=alone)

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
        aliases = self._registry.aliases()
        for alias, version in aliases.items():
            current, failure = self._aliases.get(alias), self._failures.get(alias)
            if current is not None and current.model.version == version:
                self._failures = {name: failed for name, failed in self._failures.items() if name != alias}
            elif failure is None or failure.version != version or time.monotonic() - failure.at > RETRY_SECONDS:
                self._swap(alias, version)

    def _swap(self, alias: str, version: int) -> None:
        try:
            served = self._load(version)
        except CatdogError as error:
            log.error("event=model_not_loaded alias=%s version=%d error=%r", alias, version, error.message)
            self._failures = {**self._failures, alias: Failure(version, error.message, time.monotonic())}
            return
        self._aliases = {**self._aliases, alias: served}
        self._failures = {name: failure for name, failure in self._failures.items() if name != alias}
        log.info("event=model_served alias=%s version=%d", alias, version)

    def _load(self, version: int) -> Served:
        with self._loading:
            loaded = {served.model.version: served for served in self._aliases.values()} | self._versions
            if version in loaded:
                if version in self._versions:
                    self._versions.move_to_end(version)
                return loaded[version]
            model = self._registry.get(version)
            try:
                served = Served(model, Predictor.load(self._models / model.digest, device=self._device, shared=True))
            except CatdogError:
                raise
            except Exception as error:  # onnxruntime raises its own kinds, without a common parent
                raise CorruptPackage(f"Expected a network that onnxruntime opens. Received: {type(error).__name__}.") from error
            self._versions[version] = served
            while len(self._versions) > KEPT_VERSIONS:
                self._versions.popitem(last=False)
            return served


def resolve(registry: Registry, name: str | None) -> int:
    """The version that an alias (None: the default one) or a number means; whether a number exists is not looked up.

    Raises:
        NoModel: no name was given and the default alias points nowhere.
        NotFound: there is no such alias.
    """
    if name is not None and name.isdecimal() and len(name) < 10:
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
