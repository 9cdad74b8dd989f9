"""service/decoding.py: pixels or a clear refusal, whatever the bytes; a hostile file costs only itself."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from catdog.errors import BadImage, TooLarge, Unavailable, UnsupportedType
from catdog.images import Preprocess, decode
from catdog.settings import Settings
from service import decoding
from service.decoding import Decoders
from tests.serving import picture, wait_for

PREPROCESS = Preprocess(image_size=32)


def with_decoders(work: Callable[[Decoders], Coroutine[Any, Any, Any]], **settings: Any) -> Any:
    """Run `work` with a pool of its own."""

    async def run() -> Any:
        decoders = Decoders(Settings.load(**({"decoders": 1} | settings)))
        decoders.start()
        try:
            return await work(decoders)
        finally:
            decoders.close()

    return asyncio.run(run())


def decoder_processes() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


def hang(_data: bytes, _preprocess: Preprocess) -> None:
    sum(range(10**15))  # inside C, where no signal handler written in Python would ever run


def crash(_data: bytes, _preprocess: Preprocess) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def on_sigterm(_data: bytes, _preprocess: Preprocess) -> object:
    return signal.getsignal(signal.SIGTERM)


def eat(_data: bytes, _preprocess: Preprocess) -> int:
    return len(bytearray(2 * decoding.MEMORY_BYTES))


def test_pixels_are_those_of_the_library() -> None:
    data = picture((10, 200, 30), size=(61, 47), kind="JPEG")
    pixels = with_decoders(lambda decoders: decoders.decode(data, PREPROCESS))
    assert pixels.dtype == np.uint8 and np.array_equal(pixels, PREPROCESS.pixels(decode(data)))


def test_refusals_cross_the_process_border_whole() -> None:
    async def work(decoders: Decoders) -> list[Any]:
        hostile = (b"nothing", picture()[:60], picture(size=(17_000, 9)))
        return [*await asyncio.gather(*(decoders.decode(data, PREPROCESS) for data in hostile), return_exceptions=True)]

    unsupported, truncated, huge = with_decoders(work)
    assert type(unsupported) is UnsupportedType and "7 bytes" in unsupported.message and unsupported.remedy
    assert type(truncated) is BadImage and str(truncated) == truncated.message
    assert type(huge) is TooLarge and huge.limit == 50_000_000


@pytest.mark.parametrize("attack", [hang, crash])
def test_a_picture_that_hangs_or_kills_its_decoder_costs_only_itself(monkeypatch: pytest.MonkeyPatch, attack: Callable[..., Any]) -> None:
    async def work(decoders: Decoders) -> Any:
        await decoders.decode(picture(), PREPROCESS)
        (victim,) = decoder_processes()
        with monkeypatch.context() as patch:
            patch.setattr(decoding, "_decode", attack)  # pickled by name: the decoder runs the attack
            with pytest.raises(BadImage, match="decode"):
                await decoders.decode(b"", PREPROCESS)
        wait_for(lambda: not victim.is_running() or victim.status() == psutil.STATUS_ZOMBIE, what="the decoder to be gone")
        return await decoders.decode(picture(), PREPROCESS)

    assert with_decoders(work, decode_seconds=1.0).shape == (32, 32, 3)


def test_a_decoder_that_hangs_dies_of_the_first_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_decode", on_sigterm)
    assert with_decoders(lambda decoders: decoders.decode(b"", PREPROCESS)) == signal.SIG_DFL


def test_memory_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(decoders: Decoders) -> Any:
        monkeypatch.setattr(decoding, "_decode", eat)
        with pytest.raises(MemoryError):
            await decoders.decode(b"", PREPROCESS)

    with_decoders(work)


def test_decoders_come_back_after_they_were_killed_while_idle() -> None:
    async def work(decoders: Decoders) -> Any:
        await decoders.decode(picture(), PREPROCESS)
        for process in decoder_processes():
            process.kill()
        return [await decoders.decode(picture(), PREPROCESS) for _ in range(3)]

    assert len(with_decoders(work, decoders=2)) == 3


def test_decoders_import_little() -> None:
    code = "import service.__main__, service.decoding, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert {"numpy", "PIL", "pebble"} <= loaded
    assert not loaded & {"torch", "sqlalchemy", "celery", "fastapi", "pydantic", "onnxruntime", "uvicorn"}


def test_who_comes_when_too_many_wait_is_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_WAITING", 2)

    async def work(decoders: Decoders) -> list[Any]:
        return await asyncio.gather(*(decoders.decode(picture(), PREPROCESS) for _ in range(3)), return_exceptions=True)

    answers = with_decoders(work)
    assert [type(answer) for answer in answers] == [np.ndarray, np.ndarray, Unavailable]


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
