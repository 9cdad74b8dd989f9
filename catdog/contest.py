"""contest, compare: a challenger and the champion answer the same pictures. `compare` is the run of a job of that kind. No torch.

    preparing    both packages are loaded: each repeats its golden answers on this machine
    comparing    pictures of the test split that neither was made with -> a Comparison
"""

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from catdog import balance, device
from catdog.comparison import Comparison
from catdog.datasets import Dataset, Record
from catdog.errors import BadInput, DatasetChanged, NotFound
from catdog.inference import Predictor
from catdog.kinds import CompareConfig
from catdog.progress import Progress
from catdog.settings import Settings

MAX_PICTURES = 2000
"""Of a larger test split so many are drawn, as many of each label as possible: they tell a point of accuracy, in minutes."""
BATCH = 32
"""Pictures that are answered at once."""


def compare(folder: Path, settings: Settings, *, challenger: Path | None, champion: Path | None) -> Generator[Progress]:
    """Work through the run folder of a comparison of two packages; the last Progress is `done` with what came of it.

    Raises:
        BadInput: one of the two is not named.
        CorruptPackage: one of the two does not answer on this machine as it was made to.
        DatasetChanged: the data set that the challenger was tested on is not there, or not as it was.
    """
    if challenger is None or champion is None:
        raise BadInput("Expected --challenger and --champion with --kind compare. Received: one or none of them.")
    yield Progress("phase", phase="preparing")
    config = CompareConfig.read(folder)
    rivals = Predictor.load(challenger, device=settings.device), Predictor.load(champion, device=settings.device)
    try:
        dataset = Dataset.open(settings.datasets / config.dataset)
    except NotFound as error:
        raise DatasetChanged(f"Expected the data set {config.dataset}. Received: none of that id.") from error
    if rivals[0].manifest["fingerprint"] != dataset.fingerprint:
        raise DatasetChanged(f"Expected {config.dataset} as the challenger was tested on it. Received: another fingerprint.")
    comparison = yield from contest(*rivals, dataset)
    yield Progress("done", phase="comparing", result={"comparison": comparison.to_dict()})


def contest(challenger: Predictor, champion: Predictor, dataset: Dataset) -> Generator[Progress, None, Comparison]:
    """Let both answer what is in the data set's test split and was never shown to either. Labels are compared by their names.

    Raises:
        CorruptPackage: a package does not say which pictures it was made with.
        DatasetChanged: a picture is gone or changed.
    """
    yield Progress("phase", phase="comparing")
    rivals = (challenger, champion)
    records = balance.draw(unseen(dataset, challenger.seen() | champion.seen()), MAX_PICTURES, seed=0)

    def pixels(record: Record) -> list[NDArray[np.uint8]]:
        data = dataset.read(record)
        return [rival.preprocess.pixels_of(data) for rival in rivals]

    answers: list[tuple[bool, bool]] = []
    with ThreadPoolExecutor(device.cores()) as pool:
        for start in range(0, len(records), BATCH):
            batch = records[start : start + BATCH]
            seen = zip(*pool.map(pixels, batch), strict=True)  # of each picture what either sees -> of either what it sees of all
            answers += zip(*(_right(rival, np.stack(own), batch) for rival, own in zip(rivals, seen, strict=True)), strict=True)
            yield Progress("step", phase="comparing", step=len(answers), steps=len(records))
    return Comparison.of(answers)


def unseen(dataset: Dataset, seen: frozenset[str]) -> list[Record]:
    """The test pictures that are not among the `seen` (sha256), and are no copies of any that is in the data set."""
    shown = {record.group for record in dataset.records if record.group and record.sha256 in seen}
    return [record for record in dataset.split("test") if record.sha256 not in seen and record.group not in shown]


def _right(rival: Predictor, pixels: NDArray[np.uint8], batch: Sequence[Record]) -> list[bool]:
    best = rival.logits(pixels).argmax(axis=1)
    return [rival.labels[target] == record.label for target, record in zip(best, batch, strict=True)]
