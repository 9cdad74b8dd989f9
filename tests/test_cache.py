"""cache: whole or not there, found damaged when damaged, bounded, made once for two who want it."""

import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from catdog.cache import Cache, Shape, bytes_of, key_of

SHAPES: list[Shape] = [(3, 5, 3), (2, 2, 3), (7, 1, 3)]
KEYS = [f"{number:02x}" + "0" * 62 for number in range(4)]


def drawn(shapes: list[Shape], seed: int = 0) -> list[NDArray[np.uint8]]:
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]


def make(cache: Cache, key: str = KEYS[0], shapes: list[Shape] = SHAPES, seed: int = 0) -> int:
    """Make a file, and say how many pictures went into it."""
    return len(list(cache.make(key, shapes, lambda: iter(drawn(shapes, seed)))))


def same(cache: Cache, key: str = KEYS[0], seed: int = 0) -> bool:
    """Whether a key holds what `make` put there."""
    found = cache.find(key, SHAPES)
    assert found is not None
    return len(found) == len(SHAPES) and all(np.array_equal(found[place], one) for place, one in enumerate(drawn(SHAPES, seed)))


@given(shapes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3)), min_size=1, max_size=6))
@settings(max_examples=25)
def test_what_was_put_in_comes_out(shapes: list[Shape]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cache = Cache(Path(folder), 10_000)
        assert cache.find(KEYS[0], shapes) is None and cache.holds(shapes)
        assert make(cache, shapes=shapes) == len(shapes) and make(cache, shapes=shapes) == 0
        found = cache.find(KEYS[0], shapes)
        assert found is not None and not found[0].flags.writeable
        assert all(np.array_equal(found[place], picture) for place, picture in enumerate(drawn(shapes)))


@given(place=st.integers(0, bytes_of(SHAPES) - 1), bit=st.integers(0, 7))
@settings(max_examples=60)
def test_one_wrong_bit_is_found_and_the_file_made_anew(place: int, bit: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cache = Cache(Path(folder), 10_000)
        make(cache)
        damaged = bytearray((cache.folder / KEYS[0]).read_bytes())
        damaged[place] ^= 1 << bit
        (cache.folder / KEYS[0]).write_bytes(damaged)
        assert cache.find(KEYS[0], SHAPES) is None
        assert make(cache) == len(SHAPES) and same(cache)


@pytest.mark.parametrize("size", [0, 1, bytes_of(SHAPES) - 1, bytes_of(SHAPES) + 1])
def test_a_file_of_another_size_is_made_anew(tmp_path: Path, size: int) -> None:
    cache = Cache(tmp_path, 10_000)
    make(cache)
    os.truncate(tmp_path / KEYS[0], size)
    assert cache.find(KEYS[0], SHAPES) is None
    assert make(cache) == len(SHAPES) and same(cache)


def test_what_was_used_longest_ago_goes_first_and_who_reads_it_is_not_harmed(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 2 * bytes_of(SHAPES))
    make(cache, KEYS[0], seed=0)
    make(Cache(tmp_path, cache.limit), KEYS[1], seed=1)
    reading = cache.find(KEYS[0], SHAPES)
    os.utime(tmp_path / KEYS[0], (1, 1))
    os.utime(tmp_path / KEYS[1], (2, 2))
    assert Cache(tmp_path, cache.limit).find(KEYS[0], SHAPES) is not None  # used just now
    make(Cache(tmp_path, cache.limit), KEYS[2], seed=2)
    assert sorted(path.name for path in tmp_path.iterdir() if len(path.name) == 64) == [KEYS[0], KEYS[2]]
    os.utime(tmp_path / KEYS[0], (1, 1))
    make(Cache(tmp_path, cache.limit), KEYS[3], seed=3)
    assert sorted(path.name for path in tmp_path.iterdir() if len(path.name) == 64) == [KEYS[2], KEYS[3]]
    assert reading is not None and np.array_equal(reading[1], drawn(SHAPES, 0)[1])


def test_a_run_does_not_remove_what_it_uses_itself(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 2 * bytes_of(SHAPES) - 1)
    make(cache, KEYS[0])
    with pytest.raises(OSError, match="in use") as caught:
        make(cache, KEYS[1])
    assert caught.value.errno == errno.ENOSPC
    assert same(cache, KEYS[0]) and sorted(path.name for path in tmp_path.iterdir() if len(path.name) > 10) == [KEYS[0]]


def test_too_small_holds_nothing(tmp_path: Path) -> None:
    assert not Cache(tmp_path, 0).holds(SHAPES) and not Cache(tmp_path, bytes_of(SHAPES) - 1).holds(SHAPES)
    assert Cache(tmp_path, bytes_of(SHAPES)).holds(SHAPES) and not Cache(tmp_path, 10).holds([])


def test_a_making_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 10_000)
    making = cache.make(KEYS[0], SHAPES, lambda: iter(drawn(SHAPES)))
    next(making)
    making.close()  # type: ignore[attr-defined]
    assert not [path for path in tmp_path.iterdir() if not path.name.endswith("lock")]
    assert make(cache) == len(SHAPES)


def test_pictures_of_another_shape_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shape"):
        list(Cache(tmp_path, 10_000).make(KEYS[0], SHAPES, lambda: iter(drawn(SHAPES[::-1]))))
    assert Cache(tmp_path, 10_000).find(KEYS[0], SHAPES) is None


def test_two_who_want_the_same_make_it_once(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slowly() -> Iterator[NDArray[np.uint8]]:
        begun.set()
        assert go_on.wait(60)
        yield from drawn(SHAPES)

    def never() -> Iterator[NDArray[np.uint8]]:
        raise AssertionError("made a second time")

    made: dict[str, int] = {}
    first = threading.Thread(target=lambda: made.update(first=len(list(Cache(tmp_path, 10_000).make(KEYS[0], SHAPES, slowly)))))
    second = threading.Thread(target=lambda: made.update(second=len(list(Cache(tmp_path, 10_000).make(KEYS[0], SHAPES, never)))))
    first.start()
    assert begun.wait(60)
    second.start()
    # While it is in the making: another key can be made, and counts what is reserved.
    with pytest.raises(OSError, match="in use"):
        make(Cache(tmp_path, 2 * bytes_of(SHAPES) - 1), KEYS[1])
    assert make(Cache(tmp_path, 10_000), KEYS[1]) == len(SHAPES)
    go_on.set()
    first.join(60)
    second.join(60)
    assert made == {"first": len(SHAPES), "second": 0} and same(Cache(tmp_path, 10_000))


KILLED = """
import sys
from pathlib import Path
import numpy as np
from catdog.cache import Cache
making = Cache(Path(sys.argv[1]), 10_000).make(sys.argv[2], [(2, 2, 3)] * 2, lambda: iter([np.zeros((2, 2, 3), np.uint8)] * 2))
next(making)
print("begun", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("next_key", KEYS[:2])
def test_what_a_killed_job_leaves_is_removed_by_the_next_one(tmp_path: Path, next_key: str) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path), KEYS[0]], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as job:
        assert job.stdout is not None and job.stdout.readline() == b"begun\n"
        assert make(Cache(tmp_path, 10_000), KEYS[2]) == len(SHAPES)
        assert len(list(tmp_path.glob("*.tmp-*"))) == 1  # it lives
        job.send_signal(signal.SIGKILL)
        job.wait()
    assert make(Cache(tmp_path, 10_000), next_key) == len(SHAPES)
    assert not list(tmp_path.glob("*.tmp-*"))


def test_a_key_is_of_everything_that_decides_the_pixels() -> None:
    facts: list[tuple[list[str], dict[str, Any]]] = [
        (["aa", "bb"], {"kind": 1}), (["bb", "aa"], {"kind": 1}), (["aa", "bb"], {"kind": 2}), (["aa"], {"kind": 1}),
        (["aabb"], {"kind": 1}),
    ]
    assert len({key_of(contents, **more) for contents, more in facts}) == len(facts)
    assert key_of(["aa"], first=1, second=2) == key_of(["aa"], second=2, first=1)


@pytest.mark.parametrize("change", ["finished", "removed before it is looked at", "removed before its turn"])
def test_others_finish_and_remove_files_while_room_is_made(tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the listing of the folder, the look at a file and its removal. No lock of ours keeps a file there."""
    cache = Cache(tmp_path, 3 * bytes_of(SHAPES))
    for number in (1, 2):
        make(cache, KEYS[number], seed=number)
    unfinished = tmp_path / f"{KEYS[3]}.tmp-00"
    unfinished.write_bytes(bytes(bytes_of(SHAPES)))
    os.utime(tmp_path / KEYS[1], (1, 1))
    listings, listed = 0, Path.iterdir

    def meanwhile(folder: Path) -> Iterator[Path]:
        nonlocal listings
        listings, found = listings + 1, list(listed(folder))
        if listings == 2 and change == "finished":
            unfinished.rename(tmp_path / KEYS[3])
        elif listings == 2 and change == "removed before it is looked at":
            (tmp_path / KEYS[1]).unlink()
        yield from found
        if listings == 2 and change == "removed before its turn":
            (tmp_path / KEYS[1]).unlink()

    with FileLock(tmp_path / f"{KEYS[3][:2]}.lock"), monkeypatch.context() as patch:  # whoever makes the unfinished one lives
        patch.setattr(Path, "iterdir", meanwhile)
        assert make(Cache(tmp_path, cache.limit), KEYS[0]) == len(SHAPES)
    kept = KEYS if change == "finished" else [KEYS[0], KEYS[2], unfinished.name]
    assert listings == 2 and sorted(path.name for path in tmp_path.iterdir() if not path.name.endswith("lock")) == kept


def test_many_who_make_room_at_once_get_in_each_others_way_nowhere(tmp_path: Path) -> None:
    """Threads with little room for files of different keys: each makes its file, or is told that there is no room."""
    keys = [f"{number:02x}" + "0" * 62 for number in range(24)]

    def one(key: str) -> int:
        made = 0
        for _ in range(4):
            try:
                made += make(Cache(tmp_path, 4 * bytes_of(SHAPES)), key) > 0
            except OSError as error:
                assert error.errno == errno.ENOSPC
        return made

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(one, keys)) > 0
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 4 * bytes_of(SHAPES)
    assert not list(tmp_path.glob("*.tmp-*"))
