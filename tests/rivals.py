"""pictures_of_red_and_green, make_rival, GREENISH: a data set and packages whose comparison is known beforehand."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from catdog import sources
from catdog.datasets import Dataset
from catdog.settings import Settings
from tests.serving import make_package

GREENISH = 20.0
"""A package with this bias takes every other dog for a cat."""


def pictures_of_red_and_green(folder: Path, settings: Settings, *, test: int) -> Dataset:
    """Cats are redder, by 40 of 255; dogs are greener, every other one by 10 and the rest by 40. Of each label half of `test`."""
    generator = np.random.default_rng(0)
    for split, each in (("train", 6), ("val", 6), ("test", test // 2)):
        (folder / split).mkdir(parents=True)
        for number in range(each):
            for label, tint in (("cat", 40), ("dog", -10 if number % 2 else -40)):
                pixels = generator.integers(60, 180, (24, 24, 3))
                pixels[..., 1] = pixels[..., 0].mean() + generator.permuted(pixels[..., 0] - pixels[..., 0].mean())
                pixels[..., 0] += tint
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / split / f"{label}.{number}.png")
    return sources.import_path(folder, settings=settings)


def make_rival(settings: Settings, dataset: Dataset, **options: Any) -> str:
    """A package that says it was tested on the data set; returns its digest."""
    return make_package(settings.models, **{"config": {"dataset": dataset.id}, "fingerprint": dataset.fingerprint, **options})
