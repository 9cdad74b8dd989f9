"""predict, Picture: every picture of a data set or a folder, answered by a model package. The run of a job of kind `predict`.

    preparing    -> nothing on disk
    predicting   -> rows/<fence>.ndjson: a row a picture, in the order of the pictures
                    artifacts/predictions.ndjson, predictions.csv: when all are there

Killed at any moment, the next attempt takes over the whole rows and goes on behind them: the order says which pictures they are of, so none
is left out and none stands twice. Each attempt writes a file of its own: one that was given up and still lives adds nothing to its
successor's and takes nothing from it. Two of the same fence may not work at once. No torch here.
"""

import csv
import hashlib
import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from catdog import device
from catdog.config import DATASET_ID
from catdog.datasets import Dataset
from catdog.errors import BadDataset, BadInput, CatdogError, Conflict, DatasetChanged, NotFound, TooLarge, UnsupportedType
from catdog.files import link_or_copy, sync_folder, write_atomically
from catdog.inference import Predictor
from catdog.kinds import PredictConfig
from catdog.places import is_litter, is_picture
from catdog.progress import Progress, fits
from catdog.settings import Settings

AT_ONCE = 8
"""Pictures that go through the network together: enough for a GPU, few enough that a thread a core keeps all cores busy."""
CHECKPOINT_SECONDS = 5.0
"""How often it is said that so many rows are on disk: an attempt that gets so far is not one that was lost for nothing."""
TABLE, ROWS = "predictions.csv", "predictions.ndjson"


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture to answer."""

    name: str
    known: Mapping[str, str]
    """What is known of it: `expected` (its label) and `split`, of a data set."""
    read: Callable[[], bytes]


def predict(folder: Path, settings: Settings, *, fence: int = 0) -> Generator[Progress]:
    """Work through the run folder, yielding Progress; the last one is `done` with what was answered how often.

    Raises:
        BadConfig, BadDataset: no such config, or no pictures.
        DatasetChanged: the pictures are not the ones that the run began with, or not those that were imported.
        Conflict: a later attempt has begun.
        CorruptPackage: the model cannot be loaded.
    """
    yield Progress("phase", phase="preparing")
    config = PredictConfig.read(folder)
    pictures = _pictures(config, settings)
    package = config.package or settings.models / config.digest
    predictor = Predictor.load(package, device=settings.device, shared=True, digest=config.digest)
    yield Progress("phase", phase="predicting")
    rows = folder / "rows" / f"{fence:07d}.ndjson"
    done = _take_over(rows, pictures)
    with rows.open("ab") as file:
        yield from _answer(file, pictures, predictor, done=done)
    summary = _publish(rows, folder / "artifacts", predictor.labels)
    yield Progress("done", phase="predicting", result={"model": config.model, "digest": config.digest, **summary})


def _pictures(config: PredictConfig, settings: Settings) -> list[Picture]:
    """All of them, always in the same order."""
    if re.fullmatch(DATASET_ID, config.dataset):
        try:
            dataset = Dataset.open(settings.datasets / config.dataset)
        except NotFound as error:
            raise DatasetChanged(f"Expected the data set {config.dataset}. Received: none of that id.") from error
        records = dataset.records if config.split is None else dataset.split(config.split)
        pictures = [
            Picture(record.name, {"expected": record.label, "split": record.split}, partial(dataset.read, record)) for record in records
        ]
    else:
        folder = Path(config.dataset)
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        pictures = [
            Picture(name, {}, partial(_read, folder / name, settings.max_image_bytes))
            for name in names if is_picture(name) and not is_litter(name)
        ]
    if not pictures:
        raise BadDataset(f"Expected pictures. Received: none in {config.dataset}{f', split {config.split}' if config.split else ''}.")
    return pictures


def _read(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise TooLarge(f"Expected a picture of at most {limit} bytes. Received: more.", limit=limit)
    return data


def _take_over(rows: Path, pictures: Sequence[Picture]) -> int:
    """Begin the file of rows with what earlier attempts have left whole; return for how many pictures there are rows.

    Raises:
        DatasetChanged: a row is of another picture than stands at its place now.
        Conflict: a later attempt has begun.
    """
    rows.parent.mkdir(exist_ok=True)
    attempts = sorted(rows.parent.glob("*.ndjson"))
    if attempts and attempts[-1] > rows:
        raise Conflict(
            f"Expected the newest attempt at this run. Received: {rows.name}, after {attempts[-1].name} had begun.",
            remedy="Leave the run to that attempt, or begin anew in another run folder.",
        )
    found = [_whole(path.read_bytes(), pictures) for path in attempts]
    lines = max(found, key=len, default=[])
    with write_atomically(rows) as unfinished:
        unfinished.write_bytes(b"".join(lines))
    for path in attempts:
        if path < rows:
            path.unlink(missing_ok=True)
    return len(lines)


def _whole(text: bytes, pictures: Sequence[Picture]) -> list[bytes]:
    """The rows up to the first that is torn: a crash leaves half a line, a power cut what was never written."""
    lines: list[bytes] = []
    for line in text.splitlines(keepends=True):
        try:
            name = json.loads(line)["name"]
        except (ValueError, TypeError, KeyError):
            break
        if not line.endswith(b"\n"):
            break
        if len(lines) == len(pictures) or name != pictures[len(lines)].name:
            raise DatasetChanged(
                f"Expected the pictures that the run began with. Received: another one than {name} at place {len(lines)}.",
                remedy="Begin anew in another run folder.",
            )
        lines.append(line)
    return lines


def _answer(file: BinaryIO, pictures: Sequence[Picture], predictor: Predictor, *, done: int) -> Iterator[Progress]:
    """Add the rows that are missing, a few at a time, each time for good."""
    threads, total = device.cores(), len(pictures)
    began, first, said = time.monotonic(), done, time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        while done < total:
            ends = [min(done + AT_ONCE * (turn + 1), total) for turn in range(2 * threads)]
            parts = [pictures[start:end] for start, end in zip([done, *ends], ends, strict=False) if start < end]
            rows = [*chain.from_iterable(pool.map(partial(_rows, predictor), parts))]
            file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
            file.flush()
            os.fsync(file.fileno())
            done += len(rows)
            now = time.monotonic()
            pace = (done - first) / max(now - began, 1e-9)
            yield Progress(
                "step", phase="predicting", step=done, steps=total, images_per_second=round(pace, 2),
                eta_seconds=round((total - done) / pace, 1),
            )
            if now - said >= CHECKPOINT_SECONDS:
                said = now
                yield Progress("checkpoint", phase="predicting", step=done, path=f"rows/{Path(file.name).name}")


def _rows(predictor: Predictor, pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    """A row for each picture: what is answered, or why it cannot be.

    Raises:
        DatasetChanged: a picture of the data set is not what was imported.
    """
    rows: list[dict[str, Any]] = []
    answered, pixels = [], []
    for picture in pictures:
        row: dict[str, Any] = {"name": picture.name, **picture.known}
        rows.append(row)
        try:
            data = picture.read()
            row["sha256"] = hashlib.sha256(data).hexdigest()
            pixels.append(predictor.preprocess.pixels_of(data))
        except (BadInput, TooLarge, UnsupportedType, OSError) as error:
            message = error.message if isinstance(error, CatdogError) else str(error)
            row["problem"] = {"code": getattr(error, "code", "unreadable"), "detail": message}
        else:
            answered.append(row)
    if answered:
        for row, prediction in zip(answered, predictor.predict(np.stack(pixels), alone=False), strict=True):
            row.update(prediction.to_dict())
    return rows


def _publish(rows: Path, folder: Path, labels: Sequence[str]) -> dict[str, Any]:
    """Make the artifacts of the finished rows, and count.

    `answers` counts the labels that were given. `accuracy` is of the most probable ones, given or not, as in a package and its card.
    """
    folder.mkdir(exist_ok=True)
    images = refused = abstained = right = comparable = 0
    answers: Counter[str] = Counter()
    with (
        write_atomically(folder / TABLE) as unfinished, rows.open() as lines,
        unfinished.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,  # whatever bytes a name is of
    ):
        table = csv.writer(file)
        table.writerow(["name", "split", "expected", "sha256", "label", "decision", "confidence", *labels, "problem"])
        for row in map(json.loads, lines):
            images += 1
            refused += "problem" in row
            if (label := row.get("label")) is not None:
                answers[label] += 1
            abstained += row.get("decision") == "abstain"
            if "probabilities" in row and row.get("expected") in labels:
                comparable += 1
                right += max(row["probabilities"], key=row["probabilities"].__getitem__) == row["expected"]
            table.writerow([
                *(row.get(name, "") for name in ("name", "split", "expected", "sha256", "label", "decision", "confidence")),
                *(row.get("probabilities", {}).get(label, "") for label in labels), row.get("problem", {}).get("code", ""),
            ])
    (folder / ROWS).unlink(missing_ok=True)
    link_or_copy(rows, folder / ROWS)
    sync_folder(folder)
    return {
        "images": images, "refused": refused, "abstained": abstained, "answers": dict(answers) if fits(answers) else {},
        "accuracy": right / comparable if comparable else None, "artifacts": [ROWS, TABLE],
    }
