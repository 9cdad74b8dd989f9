"""Batching: threads that compute what waits, in the order in which it came, and together what waits together. No timer.

Who waits while all threads compute is computed with whoever else does, as far as a call may take them (device.lanes): two by two on a
CPU, by dozens on a GPU. The busier the service the larger the batches, and nobody is kept waiting for company.
"""

import math
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from catdog import device as devices
from catdog.inference import Prediction, Predictor
from service.metrics import INFER, QUEUE


@dataclass(frozen=True, slots=True)
class _Asked:
    predictor: Predictor
    pixels: NDArray[np.uint8]
    explain: bool
    alone: bool
    answer: Future[list[Prediction]] = field(default_factory=Future)
    since: float = field(default_factory=time.perf_counter)

    def goes_with(self, other: "_Asked") -> bool:
        """Whether one call can answer both."""
        return self.predictor is other.predictor and self.explain == other.explain


class Batching:
    """The threads that call the networks."""

    def __init__(self, device: str) -> None:
        """`device` is auto, cpu or cuda, as in Settings."""
        count, self._pictures = devices.lanes(device)
        self._waiting: deque[_Asked] = deque()
        self._changed = threading.Condition()
        self._idle = 0
        self._closing = False
        self._threads = [threading.Thread(target=self._work, name=f"infer-{number}", daemon=True) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, predictor: Predictor, pixels: NDArray[np.uint8], *, alone: bool, explain: bool = False) -> Future[list[Prediction]]:
        """Answer pixels (N, S, S, 3) uint8 in their turn, unless cancelled before, as Predictor.predict does."""
        asked = _Asked(predictor, pixels, explain, alone)
        with self._changed:
            self._waiting.append(asked)
            self._changed.notify()
        return asked.answer

    def close(self) -> None:
        """Answer what waits, and end the threads."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while batch := self._next():
            asked = [one for one in batch if one.answer.set_running_or_notify_cancel()]
            if asked:
                _compute(asked)

    def _next(self) -> list[_Asked]:
        """What has waited longest, with others for the same model, as many as one call takes and idle threads leave over; nothing when
        closed."""
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._waiting or self._closing)
            share = math.ceil(len(self._waiting) / self._idle)
            self._idle -= 1
            batch = [self._waiting.popleft()] if self._waiting else []
            room = self._pictures - sum(len(one.pixels) for one in batch)
            while len(batch) < share and batch[0].goes_with(self._waiting[0]) and len(self._waiting[0].pixels) <= room:
                room -= len(self._waiting[0].pixels)
                batch.append(self._waiting.popleft())
        return batch


def _compute(asked: list[_Asked]) -> None:
    began = time.perf_counter()
    for one in asked:
        QUEUE.observe(began - one.since)
    try:
        pixels = asked[0].pixels if len(asked) == 1 else np.concatenate([one.pixels for one in asked])
        predictions = iter(asked[0].predictor.predict(pixels, explain=asked[0].explain, alone=len(asked) == 1 and asked[0].alone))
        answers = [[next(predictions) for _ in one.pixels] for one in asked]
    except Exception as error:  # noqa: BLE001 - it is the askers' to handle, and the thread must go on
        for one in asked:
            one.answer.set_exception(error)
        return
    INFER.observe(time.perf_counter() - began)
    for one, answer in zip(asked, answers, strict=True):
        one.answer.set_result(answer)
