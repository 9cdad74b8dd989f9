"""service/batching.py and catdog/engine.py: what waits is computed in order, together where that pays, and not for those who left."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from catdog import device
from catdog.engine import Engine
from catdog.inference import Prediction, Predictor
from service.batching import Batching
from tests.serving import SIZE, make_package, wait_for

SIDE = (SIZE, SIZE, 3)


class Watched(Predictor):
    """Notes how many pictures each call has, and whether it was said to be alone; calls wait for the gate."""

    calls: list[tuple[int, bool]]
    gate: threading.Event
    entered: threading.Event

    def predict(self, pixels: NDArray[np.uint8], **options: Any) -> list[Prediction]:
        self.calls.append((len(pixels), options["alone"]))
        self.entered.set()
        assert self.gate.wait(20)
        return super().predict(pixels, **options)


class Noting:
    """A session that says that it was called."""

    def __init__(self, session: Any, used: list[bool], is_wide: bool) -> None:
        self.session, self.used, self.is_wide = session, used, is_wide

    def run(self, *asked: Any) -> Any:
        self.used.append(self.is_wide)
        return self.session.run(*asked)


@pytest.fixture
def predictor(tmp_path: Path) -> Watched:
    loaded = Watched.load(tmp_path / make_package(tmp_path), device="cpu", shared=True)
    assert isinstance(loaded, Watched)
    loaded.calls, loaded.gate, loaded.entered = [], threading.Event(), threading.Event()
    return loaded


@pytest.fixture(params=[(1, 4)])
def batching(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Batching]:
    """With so many threads, and so many pictures in a call: as on a GPU."""
    monkeypatch.setattr(device, "lanes", lambda _device: request.param)
    threads = Batching("cpu")
    yield threads
    threads.close()


def plain(red: int) -> NDArray[np.uint8]:
    """One picture, the redder the more a cat."""
    return np.full((1, *SIDE), (red, 60, 0), np.uint8)


def test_what_waits_together_is_computed_together_and_each_gets_its_own(predictor: Watched, batching: Batching) -> None:
    first = batching.submit(predictor, plain(0), alone=True)
    assert predictor.entered.wait(20)
    others = [batching.submit(predictor, plain(40 * number), alone=False) for number in range(1, 7)]
    predictor.gate.set()
    assert [answer.result(20)[0].label for answer in (first, *others)] == ["dog", "dog", "cat", "cat", "cat", "cat", "cat"]
    assert predictor.calls == [(1, True), (4, False), (2, False)]


@pytest.mark.parametrize("batching", [(2, 4)], indirect=True)
def test_no_thread_is_idle_while_another_takes_what_two_could(predictor: Watched, batching: Batching) -> None:
    wait_for(lambda: batching._idle == 2, what="both threads")
    with batching._changed:
        answers = [batching.submit(predictor, plain(200), alone=False) for _ in range(2)]
    wait_for(lambda: len(predictor.calls) == 2, what="both threads to compute")
    predictor.gate.set()
    assert [answer.result(20)[0].label for answer in answers] == ["cat", "cat"]
    assert predictor.calls == [(1, False), (1, False)]


def test_a_batch_is_of_one_model(predictor: Watched, batching: Batching, tmp_path: Path) -> None:
    other = Predictor.load(tmp_path / make_package(tmp_path, labels=("kitten", "puppy")))
    batching.submit(predictor, plain(0), alone=False)
    assert predictor.entered.wait(20)
    answers = [batching.submit(one, plain(200), alone=False) for one in (predictor, predictor, other, predictor)]
    predictor.gate.set()
    assert [answer.result(20)[0].label for answer in answers] == ["cat", "cat", "kitten", "cat"]
    assert predictor.calls == [(1, False), (2, False), (1, False)]


def test_who_left_while_waiting_is_not_computed(predictor: Watched, batching: Batching) -> None:
    first = batching.submit(predictor, plain(0), alone=True)
    assert predictor.entered.wait(20)
    left, stays = (batching.submit(predictor, plain(0), alone=False) for _ in range(2))
    assert left.cancel()
    predictor.gate.set()
    assert first.result(20) and stays.result(20)
    assert predictor.calls == [(1, True), (1, False)]


def test_an_error_is_its_askers_and_the_thread_goes_on(predictor: Watched, batching: Batching) -> None:
    predictor.gate.set()
    with pytest.raises(Exception, match="pixels"):  # of onnxruntime's own kind
        batching.submit(predictor, np.zeros((1, 3, 3, 3), np.uint8), alone=True).result(20)
    assert batching.submit(predictor, plain(200), alone=True).result(20)[0].label == "cat"


def test_what_waits_is_answered_before_the_end(predictor: Watched, batching: Batching) -> None:
    answers = [batching.submit(predictor, plain(200), alone=False) for _ in range(5)]
    predictor.gate.set()
    batching.close()
    assert all(answer.result(0) for answer in answers)


def test_alone_or_in_company_the_answer_is_the_same(predictor: Watched) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, *SIDE), dtype=np.uint8)
    assert np.allclose(predictor.logits(pixels, alone=True), predictor.logits(pixels, alone=False), atol=1e-5)


@pytest.mark.parametrize(("cores", "shared", "threads"), [(4, True, [4, 1]), (1, True, [1]), (4, False, [4])])
def test_sessions_have_the_threads_of_the_cgroup(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cores: int, shared: bool, threads: list[int],
) -> None:
    monkeypatch.setattr(device, "cores", lambda: cores)
    engine = Engine(tmp_path / make_package(tmp_path) / "model.onnx", device="cpu", shared=shared)
    sessions = list(dict.fromkeys((engine._wide, engine._narrow)))
    assert [session.get_session_options().intra_op_num_threads for session in sessions] == threads
    assert device.lanes("cpu")[0] == cores


@pytest.mark.parametrize(("alone", "room", "wide"), [(True, True, True), (True, False, False), (False, True, False)])
def test_all_cores_are_for_who_is_alone_on_a_machine_with_room(
    monkeypatch: pytest.MonkeyPatch, predictor: Watched, alone: bool, room: bool, wide: bool,
) -> None:
    monkeypatch.setattr(device, "has_room", lambda: room)
    engine = predictor._engine
    used: list[bool] = []
    monkeypatch.setattr(engine, "_wide", Noting(engine._wide, used, True))
    monkeypatch.setattr(engine, "_narrow", Noting(engine._narrow, used, False))
    predictor.logits(plain(0), alone=alone)
    assert used == [wide]


def test_a_machine_has_room_for_as_many_threads_as_it_has_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, room in ((10**6, True), (0, False)):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        assert device.has_room() is room  # at least this thread runs
