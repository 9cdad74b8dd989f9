"""Much data: an upload of a gigabyte costs the service no memory, and 100,000 pictures cost the import no more each than 2,000 do."""

import os
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.living import FAST_JOB, LiveStack, until

MANY = 100_000
MIB = 2**20


def big_archive(path: Path, *, pictures: int, megabytes: int, source: Path) -> Path:
    """A zip of pictures, each followed by bytes that no decoder looks at and nothing packs."""
    padding = Random(1).randbytes(megabytes * MIB)
    with zipfile.ZipFile(path, "w") as packed:
        for number, picture in enumerate(sorted(source.iterdir())[:pictures]):
            packed.writestr(picture.name, picture.read_bytes() + number.to_bytes(4) + padding)
    return path


def blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(MIB):
            yield block


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_gigabyte_comes_in_while_predictions_are_answered_and_memory_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with LiveStack(tmp_path) as stack:
        dataset = stack.drawn(tmp_path / "pictures", count=120)
        job = stack.wait_for_end(stack.post_job(dataset, **FAST_JOB | {"epochs": 2}))
        assert job["state"] == "succeeded", job
        picture = (tmp_path / "pictures" / "cat.1.jpg").read_bytes()
        archive = big_archive(tmp_path / "big.zip", pictures=103, megabytes=10, source=tmp_path / "pictures")
        assert archive.stat().st_size > 2**30
        until(lambda: stack.client.get("/health/ready").json()["models"].get("champion") == job["model"], "the model")

        def predict() -> float:
            began = time.monotonic()
            answer = stack.client.post("/v1/predict", content=picture, headers={"Content-Type": "image/jpeg"})
            assert answer.status_code == 200, answer.text
            return time.monotonic() - began

        for _ in range(20):  # warm: what the first requests allocate is not the upload's
            predict()
        service = stack.part("service")
        idle = service.memory_info().rss
        done = threading.Event()
        seen: list[int] = []
        times: list[float] = []

        def watch() -> None:
            while not done.is_set():
                seen.append(service.memory_info().rss)
                times.append(predict())

        watching = threading.Thread(target=watch)
        watching.start()
        try:
            began = time.monotonic()
            response = stack.client.post(
                "/v1/datasets", content=blocks(archive), headers={"Content-Type": "application/zip"}, timeout=300,
            )
            received = time.monotonic() - began
            assert response.status_code == 202, response.text
            ready = until(lambda: stack._settled(response.json()["id"]), "the import")
        finally:
            done.set()
            watching.join()
        assert ready["state"] == "ready" and ready["images"] == 103
        growth = (max(seen) - idle) / MIB
        with capsys.disabled():
            print(
                f"\n1 GiB received in {received:.1f} s; service {idle / MIB:.0f} MiB idle, at most {growth:+.1f} MiB meanwhile; "
                f"{len(times)} predictions answered, the slowest after {max(times) * 1000:.0f} ms",
            )
        assert growth < 50 and len(times) > 20


def drawn_folder(folder: Path, count: int) -> Path:
    """Small drawn pictures, made once: a folder that is there is gone on with."""
    from catdog.drawing import LABELS, draw_picture

    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        label, turn = LABELS[number % 2], number // 2
        path = folder / f"{label}.{turn}.jpg"
        if not path.exists():
            unfinished = path.with_suffix(".part")
            draw_picture(label, Random(f"{label}{turn}"), 48).save(unfinished, "JPEG", quality=80)
            unfinished.rename(path)
    return folder


MEASURE = """
import resource, sys, time
from pathlib import Path
from catdog.settings import Settings
from catdog.sources import report
began = time.monotonic()
summary, page = report(sys.argv[1], settings=Settings.load(data_dir=Path(sys.argv[2])))
print(summary["images"] + len(summary["refused"]), time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def measured(folder: Path, data_dir: Path) -> tuple[int, float, int]:
    """Pictures accounted for, seconds, and the most MiB, of a process of its own."""
    done = subprocess.run([sys.executable, "-c", MEASURE, str(folder), str(data_dir)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pictures, seconds, memory = done.stdout.split()
    return int(pictures), float(seconds), int(memory)


def test_two_thousand_pictures_are_scanned_split_and_reported(tmp_path: Path) -> None:
    assert measured(drawn_folder(tmp_path / "pictures", 2_000), tmp_path)[0] == 2_000


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_pictures_cost_no_more_each(
    tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str],
) -> None:
    kept = os.environ.get("TEST_PICTURES")  # a folder that outlives the test: drawing takes longer than the scan
    folder = Path(kept) if kept else tmp_path_factory.mktemp("many")
    memories = []
    for count in (2_000, 20_000, MANY):
        pictures = drawn_folder(folder / str(count), count)
        accounted, seconds, memory = measured(pictures, folder)
        memories.append(memory)
        with capsys.disabled():
            print(f"\n{count} pictures: {seconds / count * 1000:.2f} s per 1,000, at most {memory} MiB")
        assert accounted == count
    assert memories[-1] - memories[0] < 600, "a record is some hundred bytes; the pictures themselves must not stay"
