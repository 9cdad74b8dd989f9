"""Answer, ask, served_by, described: a picture's way from its bytes to a prediction, the same for every route that is asked."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import uuid6
from starlette.concurrency import run_in_threadpool

from catdog.inference import Prediction
from service.parts import Parts
from service.predictors import DEFAULT_ALIAS, Served


@dataclass(frozen=True, slots=True)
class Answer:
    """A prediction, and how long it took."""

    prediction: Prediction
    decode_seconds: float
    infer_seconds: float

    def to_dict(self, top_k: int | None = None) -> dict[str, Any]:
        """What a client is shown, beside the model (`described`) that it asked; of the probabilities the `top_k` highest."""
        probabilities = self.prediction.probabilities
        if top_k is not None:
            probabilities = dict(sorted(probabilities.items(), key=lambda item: -item[1])[:top_k])
        timings = {"decode": self.decode_seconds, "infer": self.infer_seconds, "total": self.decode_seconds + self.infer_seconds}
        return {
            "prediction_id": f"pred_{uuid6.uuid7().hex}",
            "label": self.prediction.label,
            "confidence": self.prediction.confidence,
            "probabilities": probabilities,
            "decision": "label",
            "timings_ms": {name: round(1000 * seconds, 3) for name, seconds in timings.items()},
            "warnings": [],
        }


async def served_by(parts: Parts, name: str | None) -> Served:
    """The model of an alias (None: the default one) or of a version's number.

    Raises:
        NoModel, NotFound, Unavailable: as Predictors.get.
    """
    served = parts.predictors.find(name)
    return served if served is not None else await run_in_threadpool(parts.predictors.get, name)


def described(served: Served, name: str | None) -> dict[str, Any]:
    """The model that answers, and the alias it was asked by."""
    alias = None if name is not None and name.isdecimal() else name or DEFAULT_ALIAS
    return {"version": served.model.version, "alias": alias, "digest": served.model.digest}


async def ask(parts: Parts, served: Served, data: bytes) -> Answer:
    """Decode one picture and answer it; cancelled, it gives up its place in every queue.

    Raises:
        BadImage, UnsupportedType, TooLarge: as Decoders.decode.
        Unavailable: as Admission.place.
    """
    async with parts.admission.place():
        began = time.perf_counter()
        pixels = await parts.decoders.decode(data, served.predictor.preprocess)
        decoded = time.perf_counter()
        asked = parts.predictors.infer(served, pixels[np.newaxis], alone=parts.admission.is_alone)
        (prediction,) = await asyncio.wrap_future(asked)
        return Answer(prediction, decoded - began, time.perf_counter() - decoded)
