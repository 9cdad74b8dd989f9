"""Parts, open_parts, and the dependencies of the routes: what the service is made of, opened and closed in one place."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from catdog.database import create_engine, migrate
from catdog.jobs import JobStore
from catdog.leadership import Leadership
from catdog.registry import Registry
from catdog.settings import Settings
from service.admission import Admission
from service.decoding import Decoders
from service.importer import Importer
from service.lookout import Lookout
from service.predictors import Predictors
from service.publisher import Publisher
from service.reconciler import Reconciler
from service.shelf import Shelf


@dataclass(frozen=True)
class Parts:
    """Everything that lives as long as the service."""

    settings: Settings
    jobs: JobStore
    registry: Registry
    shelf: Shelf
    admission: Admission
    decoders: Decoders
    predictors: Predictors
    publisher: Publisher
    reconciler: Reconciler
    importer: Importer
    lookout: Lookout[tuple[dict[str, str], dict[str, str]]] = field(default_factory=Lookout)
    closing: threading.Event = field(default_factory=threading.Event)
    """Set when the service is asked to stop, so that requests that wait for something answer."""


@contextmanager
def open_parts(settings: Settings) -> Iterator[Parts]:
    """Open every part, and close them in reverse. Call it from the thread that lives as long as the service.

    Raises:
        BadSettings: a folder or the database cannot be used.
    """
    settings.make_folders()
    with ExitStack() as stack:
        engine = create_engine(settings.database)
        stack.callback(engine.dispose)
        migrate(engine)
        jobs, registry, shelf = JobStore(engine), Registry(engine), Shelf(settings.datasets)
        admission = Admission(settings.max_predictions, seconds=settings.predict_seconds, room=settings.max_predictions_bytes)
        decoders = Decoders(settings)
        predictors = Predictors(registry, settings.models, device=settings.device)
        publisher = Publisher(settings.redis_url)
        reconciler = Reconciler(settings, jobs, publisher, Leadership(engine, "reconciler"))
        importer = Importer(settings, shelf, Leadership(engine, "importer"))
        for part in (decoders, predictors, publisher, reconciler, importer):
            stack.callback(part.close)
            part.start()
        parts = Parts(settings, jobs, registry, shelf, admission, decoders, predictors, publisher, reconciler, importer)
        stack.callback(parts.lookout.close)
        stack.callback(parts.closing.set)
        yield parts


# These are async although they await nothing: others would run in the threads that the routes share, behind those that wait for a database.


async def all_parts(request: Request) -> Parts:
    """The parts of the application that answers."""
    parts: Parts = request.app.state.parts
    return parts


AllParts = Annotated[Parts, Depends(all_parts)]


async def _settings(parts: AllParts) -> Settings:
    return parts.settings


async def _jobs(parts: AllParts) -> JobStore:
    return parts.jobs


async def _models(parts: AllParts) -> Registry:
    return parts.registry


async def _datasets(parts: AllParts) -> Shelf:
    return parts.shelf


Limits = Annotated[Settings, Depends(_settings)]
Jobs = Annotated[JobStore, Depends(_jobs)]
Models = Annotated[Registry, Depends(_models)]
Datasets = Annotated[Shelf, Depends(_datasets)]
