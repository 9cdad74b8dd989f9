"""examine, draw_sheet: what a training would see, without training. The run of a job of kind `examine`.

    preparing    as a training's: what cannot work is refused here
    examining    -> doctor.json, artifacts/contact_sheet.png; and how long it would take
"""

from collections.abc import Generator
from pathlib import Path

from PIL import Image

from catdog import balance, catalogue, device, sheets
from catdog.config import TrainConfig
from catdog.datasets import Dataset
from catdog.doctor import gate
from catdog.estimate import estimate
from catdog.images import Preprocess
from catdog.progress import Progress
from catdog.run import prepare
from catdog.settings import Settings

SHEET = "contact_sheet.png"


def examine(folder: Path, settings: Settings) -> Generator[Progress]:
    """Work through the run folder as `run` would, as far as it can be told without training; the last Progress is `done`.

    What the doctor finds is said, and refuses nothing.

    Raises:
        BadConfig, WeightsUnavailable, NoDevice, DatasetChanged: as `run`.
    """
    yield Progress("phase", phase="preparing")
    prepared = prepare(folder, settings)
    yield prepared.introduced()
    yield Progress("phase", phase="examining")
    prepared.enter("examining")
    report = gate.look(prepared)
    yield from gate.said(report, phase="examining")
    gate.amend(folder, report)
    sheet = draw_sheet(prepared.config, settings)
    artifacts = folder / "artifacts"
    artifacts.mkdir(exist_ok=True)
    sheet.save(artifacts / SHEET)
    taken = estimate(prepared, settings)
    yield Progress("done", phase="examining", result={
        "pictures": prepared.shown, "artifacts": [SHEET], "doctor": gate.summary(report), "estimate": taken.to_dict(),
    })


def draw_sheet(config: TrainConfig, settings: Settings) -> Image.Image:
    """The contact sheet of a training with this config.

    Raises:
        NotFound, BadConfig: there is no such data set, or not so many pictures in it.
    """
    dataset = Dataset.open(settings.datasets / config.dataset)
    records = balance.select(dataset.records, dataset.labels, config)["train"]
    preprocess = Preprocess(config.image_size, **catalogue.preprocess(config.model, config.weights), geometry=config.geometry)
    return sheets.contact_sheet(dataset, records, preprocess, augment=config.augment, seed=config.seed, threads=device.cores())
