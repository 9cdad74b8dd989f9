"""service/decoding.py: pixels or a clear refusal, whatever the bytes; a hostile file costs only itself."""

import asyncio
import errno
import gc
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from catdog import process
from catdog.errors import BadImage, TooLarge, UnsupportedType
from catdog.images import Preprocess, decode
from catdog.settings import Settings
from service import decoder, decoding
from service.decoding import Decoders
from tests.hostile_decoder import ATTACK
from tests.serving import picture, wait_for

PREPROCESS = Preprocess(image_size=32)


def with_decoders(work: Callable[[Decoders], Coroutine[Any, Any, Any]], **settings: Any) -> Any:
    """Run `work` with a pool of its own."""

    async def run() -> Any:
        decoders = Decoders(Settings.load(**({"decoders": 1} | settings)))
        decoders.start()
        try:
            async with asyncio.timeout(60):
                return await work(decoders)
        finally:
            decoders.close()

    return asyncio.run(run())


def decoder_processes() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "decoder" in " ".join(child.cmdline())]


def open_descriptors() -> int:
    gc.collect()
    return psutil.Process().num_fds()


@pytest.fixture
def attacked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoders are those of hostile_decoder.py."""
    monkeypatch.setattr(decoding, "COMMAND", (sys.executable, "-m", "tests.hostile_decoder", request.param))


def test_pixels_are_those_of_the_library() -> None:
    data = picture((10, 200, 30), size=(61, 47), kind="JPEG")
    pixels = with_decoders(lambda decoders: decoders.decode(data, PREPROCESS))
    assert pixels.dtype == np.uint8 and np.array_equal(pixels, PREPROCESS.pixels(decode(data)))


def test_pixels_of_a_picture_outlive_the_next_one() -> None:
    async def work(decoders: Decoders) -> Any:
        first = await decoders.decode(picture((250, 0, 0)), PREPROCESS)
        await decoders.decode(picture((0, 250, 0)), PREPROCESS)
        return first

    assert (with_decoders(work)[0, 0] == (250, 0, 0)).all()


def test_refusals_cross_the_process_border_whole() -> None:
    async def work(decoders: Decoders) -> list[Any]:
        hostile = (b"nothing", picture()[:60], picture(size=(17_000, 9)))
        return [*await asyncio.gather(*(decoders.decode(data, PREPROCESS) for data in hostile), return_exceptions=True)]

    unsupported, truncated, huge = with_decoders(work)
    assert type(unsupported) is UnsupportedType and "7 bytes" in unsupported.message and unsupported.remedy
    assert type(truncated) is BadImage and str(truncated) == truncated.message
    assert type(huge) is TooLarge and huge.limit == 50_000_000


@pytest.mark.parametrize(("attacked", "reason"), [("hang", "seconds"), ("crash", "ended"), ("lie", "ended")], indirect=["attacked"])
def test_a_picture_that_hangs_or_takes_its_decoder_costs_only_itself(attacked: None, reason: str) -> None:
    async def work(decoders: Decoders) -> Any:
        await decoders.decode(picture(), PREPROCESS)
        (victim,) = decoder_processes()
        hostile = asyncio.create_task(decoders.decode(ATTACK, PREPROCESS))
        behind = asyncio.create_task(decoders.decode(picture(), PREPROCESS))
        with pytest.raises(BadImage, match=reason):
            await hostile
        assert not victim.is_running()
        return await behind

    assert with_decoders(work, decode_seconds=2.0).shape == (32, 32, 3)


@pytest.mark.parametrize("attacked", ["eat"], indirect=True)
def test_memory_is_limited(attacked: None) -> None:
    async def work(decoders: Decoders) -> Any:
        with pytest.raises(BadImage, match=str(decoder.MEMORY_BYTES)):
            await decoders.decode(ATTACK, PREPROCESS)
        return decoder_processes()

    assert len(with_decoders(work)) == 1  # nobody had to die for it


def test_who_leaves_while_waiting_leaves_the_decoder_to_the_next() -> None:
    async def work(decoders: Decoders) -> Any:
        waiting = [asyncio.create_task(decoders.decode(picture(), PREPROCESS)) for _ in range(3)]
        await asyncio.sleep(0)
        for leaving in waiting[:2]:  # before any decoder is up
            leaving.cancel()
        return await waiting[2]

    assert with_decoders(work).shape == (32, 32, 3)


def test_who_leaves_while_his_picture_is_decoded_does_not_give_it_to_the_next() -> None:
    async def work(decoders: Decoders) -> Any:
        await decoders.decode(picture(), PREPROCESS)
        leaving = asyncio.create_task(decoders.decode(picture((250, 0, 0), size=(4000, 4000)), PREPROCESS))
        await asyncio.sleep(0)
        leaving.cancel()
        return await decoders.decode(picture((0, 250, 0)), PREPROCESS)

    assert (with_decoders(work)[0, 0] == (0, 250, 0)).all()


@pytest.mark.parametrize("attacked", ["crash"], indirect=True)
def test_a_decoder_that_dies_of_a_picture_nobody_waits_for_is_no_error_of_the_loop(attacked: None) -> None:
    async def work(decoders: Decoders) -> list[dict[str, Any]]:
        await decoders.decode(picture(), PREPROCESS)
        heard: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context))
        leaving = asyncio.create_task(decoders.decode(ATTACK, PREPROCESS))
        await asyncio.sleep(0)
        leaving.cancel()
        await decoders.decode(picture(), PREPROCESS)
        gc.collect()
        return heard

    assert with_decoders(work) == []


def test_decoders_see_nothing_of_database_and_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CATDOG_DATABASE_URL", "postgresql://user:secret@nowhere/catdog")

    async def work(decoders: Decoders) -> Any:
        await decoders.decode(picture(), PREPROCESS)
        return [name for child in decoder_processes() for name in child.environ() if name == "CATDOG_DATABASE_URL"]

    assert with_decoders(work) == []


def test_decoders_come_back_after_they_were_killed_while_idle() -> None:
    async def work(decoders: Decoders) -> Any:
        await decoders.decode(picture(), PREPROCESS)
        killed = decoder_processes()
        for victim in killed:
            victim.kill()
        # The socket of a zombie is open as long as other threads of it still end.
        wait_for(lambda: all(one.status() == psutil.STATUS_ZOMBIE and one.num_threads() == 1 for one in killed), what="their death")
        return [await decoders.decode(picture(), PREPROCESS) for _ in range(3)]

    assert len(with_decoders(work, decoders=2)) == 3


@pytest.mark.parametrize("lacking", ["socket.socketpair", "os.memfd_create", "mmap.mmap", "catdog.process.start"])
def test_decoders_come_back_after_a_time_when_none_could_be_started(lacking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "PAUSE_SECONDS", 0.01)
    tried = []

    def lack(*_: Any, **__: Any) -> None:
        tried.append(lacking)
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    async def work(decoders: Decoders) -> Any:
        await decoders.decode(picture(), PREPROCESS)
        descriptors = open_descriptors()
        with monkeypatch.context() as scarce:
            scarce.setattr(lacking, lack)
            for victim in decoder_processes():
                victim.kill()
            while len(tried) < 3:
                await asyncio.sleep(0.01)
            is_able_without = decoders.is_able
        pixels = await decoders.decode(picture(), PREPROCESS)
        assert open_descriptors() == descriptors and decoders.is_able and not is_able_without
        return pixels

    assert with_decoders(work).shape == (32, 32, 3)


@pytest.mark.parametrize("code", ["", "import time; time.sleep(600)"])
def test_a_decoder_that_does_not_come_up_is_started_again_after_a_pause(
    code: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:
    started, start = [], process.start

    def counted(*words: Any, **more: Any) -> Any:
        started.append(start(*words, **more))
        return started[-1]

    monkeypatch.setattr(process, "start", counted)
    monkeypatch.setattr(decoding, "PAUSE_SECONDS", 3.0)  # longer than a busy machine may sleep between two lines of this test

    async def work(decoders: Decoders) -> Any:
        while "decoder_does_not_start" not in caplog.text:
            await asyncio.sleep(0.01)
        is_able_without = decoders.is_able
        assert len(started) == 1, "nothing is tried while the pause lasts"
        monkeypatch.setattr(decoding, "COMMAND", whole)
        monkeypatch.setattr(decoding, "START_SECONDS", patience)
        pixels = await decoders.decode(picture(), PREPROCESS)
        (living,) = decoders._living
        living._process.kill()
        while living in decoders._living:
            await asyncio.sleep(0.01)
        assert decoders.is_able and not is_able_without, "what once failed is not held against the next"
        return pixels

    whole, patience = decoding.COMMAND, decoding.START_SECONDS
    monkeypatch.setattr(decoding, "START_SECONDS", 0.5)
    monkeypatch.setattr(decoding, "COMMAND", (sys.executable, "-c", code))
    assert with_decoders(work).shape == (32, 32, 3) and len(started) == 3 and started[0].poll() is not None


def test_decoders_import_little() -> None:
    code = "import service.decoder, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert {"numpy", "PIL"} <= loaded
    assert not loaded & {"torch", "sqlalchemy", "celery", "fastapi", "pydantic", "onnxruntime", "uvicorn", "psutil"}


def test_hostile_pictures_give_pixels_or_a_refusal(shared_data: Callable[..., Path]) -> None:
    files = sorted(path for path in shared_data("hostile_images").rglob("*") if path.is_file())

    async def work(decoders: Decoders) -> list[Any]:
        return await asyncio.gather(*(decoders.decode(path.read_bytes(), PREPROCESS) for path in files[:250]), return_exceptions=True) + \
            await asyncio.gather(*(decoders.decode(path.read_bytes(), PREPROCESS) for path in files[250:]), return_exceptions=True)

    answers = dict(zip(files, with_decoders(work, decoders=2), strict=True))
    kinds = {path.name: type(answer) for path, answer in answers.items()}
    assert set(kinds.values()) <= {np.ndarray, BadImage, UnsupportedType, TooLarge}, kinds
    assert len(files) > 200 and sum(kind is np.ndarray for kind in kinds.values()) > 100
    broken = [path.name for path in files if path.parent.name == "pngsuite" and path.name.startswith("x")]
    assert len(broken) > 10 and {kinds[name] for name in broken} <= {BadImage, UnsupportedType}
