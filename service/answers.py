"""Picture, Answer, ask, ask_each, served_by, loaded, described: a picture's way to a prediction, the same for every route."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import uuid6
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool

from catdog import device as devices
from catdog.errors import CatdogError, CorruptPackage, TooLarge, Unavailable
from catdog.inference import Prediction
from service.parts import Parts
from service.predictors import DEFAULT_ALIAS, Served

Picture = bytes | memoryview | NDArray[np.uint8]
"""Encoded, or pixels (S, S, 3) as the network takes them."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A prediction, and how long it took."""

    prediction: Prediction
    pixels: NDArray[np.uint8]
    """(S, S, 3): what the network saw."""
    decode_seconds: float
    infer_seconds: float

    def to_dict(self, top_k: int | None = None) -> dict[str, Any]:
        """What a client is shown, beside the model (`described`) that it asked."""
        timings = {"decode": self.decode_seconds, "infer": self.infer_seconds, "total": self.decode_seconds + self.infer_seconds}
        return {
            "prediction_id": f"pred_{uuid6.uuid7().hex}",
            **self.prediction.to_dict(top_k),
            "timings_ms": {name: round(1000 * seconds, 3) for name, seconds in timings.items()},
            "warnings": [],
        }


async def served_by(parts: Parts, name: str | None) -> Served:
    """The model of an alias (None: the default one) or of a version's number.

    Raises:
        NoModel, NotFound: as Predictors.load.
        Unavailable: likewise; or its package cannot be loaded, or not in time.
    """
    served = parts.predictors.find(name)
    try:
        return await loaded(parts, name) if served is None else served
    except CorruptPackage as error:
        raise Unavailable(error.message, remedy=error.remedy) from error


async def loaded(parts: Parts, name: str | None) -> Served:
    """The same of one that need not be loaded yet. No thread waits for it, and no request longer than for a prediction.

    Raises:
        NoModel, NotFound, Unavailable, CorruptPackage: as Predictors.load.
        Unavailable: it takes too long; it is loaded all the same.
    """
    loading = await run_in_threadpool(parts.predictors.load, name)
    seconds = parts.settings.predict_seconds
    try:
        async with asyncio.timeout(seconds):
            return await asyncio.shield(asyncio.wrap_future(loading))  # others may wait for it: who leaves calls nothing off
    except TimeoutError as error:
        raise Unavailable(f"Expected a model to be loaded within {seconds:g} seconds. Received: one that takes longer.") from error


def described(served: Served, name: str | None) -> dict[str, Any]:
    """The model that answers, and the alias it was asked by."""
    alias = None if name is not None and name.isdecimal() else name or DEFAULT_ALIAS
    return {"version": served.model.version, "alias": alias, "digest": served.model.digest}


async def ask(parts: Parts, served: Served, picture: Picture, *, explain: bool = False) -> Answer:
    """Decode one picture and answer it; with `explain` the prediction says where in the picture it comes from.

    Cancelled, it gives up its place in every queue.

    Raises:
        TooLarge: more bytes than a picture may have.
        BadImage, UnsupportedType, TooLarge: as Decoders.decode.
        Unavailable: as Admission.place.
        ExplainUnavailable: as Predictor.predict.
    """
    limit = parts.settings.max_image_bytes
    if not isinstance(picture, np.ndarray) and len(picture) > limit:
        raise TooLarge(f"Expected a picture of at most {limit} bytes. Received: more.", limit=limit)
    async with parts.admission.place():
        began = time.perf_counter()
        pixels = picture if isinstance(picture, np.ndarray) else await parts.decoders.decode(picture, served.predictor.preprocess)
        decoded = time.perf_counter()
        asked = parts.predictors.infer(served, pixels[np.newaxis], explain=explain, alone=parts.admission.is_alone)
        (prediction,) = await asyncio.wrap_future(asked)
        return Answer(prediction, pixels, decoded - began, time.perf_counter() - decoded)


async def ask_each(parts: Parts, served: Served, pictures: Iterable[Callable[[], Awaitable[Picture]]]) -> list[Answer | CatdogError]:
    """Answer many pictures, in their order; one that is refused costs only itself.

    Each is read when its turn comes. Two a core are under way at once, so that one request leaves room for others.
    """
    places = asyncio.Semaphore(2 * devices.cores())

    async def answer(read: Callable[[], Awaitable[Picture]]) -> Answer | CatdogError:
        async with places:
            try:
                return await ask(parts, served, await read())
            except CatdogError as error:
                return error

    return await asyncio.gather(*map(answer, pictures))
