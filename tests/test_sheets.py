"""sheets: each row is a picture as validation sees it, then as each epoch does."""

from pathlib import Path
from random import Random

import numpy as np

from catdog import loaders
from catdog.drawing import LABELS, draw_picture
from catdog.images import Preprocess
from catdog.loaders import Pictures
from catdog.settings import Settings
from catdog.sheets import GAP, LINE, PICTURES, VIEWS, contact_sheet
from catdog.sources import import_folder


def test_a_sheet_shows_what_the_loader_gives_to_training(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for number in range(12):
        for label in LABELS:
            draw_picture(label, Random(f"{label}{number}"), 64).save(tmp_path / "pictures" / f"{label}.\u00e9{number}.png")
    dataset = import_folder(tmp_path / "pictures", tmp_path / "datasets", settings=Settings.load(data_dir=tmp_path))
    records, preprocess = dataset.split("train"), Preprocess(48)
    drawn = contact_sheet(dataset, records, preprocess, augment="strong", seed=3, threads=2)
    assert drawn.size == (GAP + (1 + VIEWS) * (48 + GAP), GAP + PICTURES * (48 + LINE + GAP))

    sheet = np.asarray(drawn)
    by_label = [[record for record in records if record.label == label] for label in dataset.labels]
    shown = [by_label[row % 2][row // 2] for row in range(PICTURES)]
    trained = loaders.pixels(Pictures(dataset, shown, preprocess, "strong", seed=3), threads=1)
    validated = loaders.pixels(Pictures(dataset, shown, preprocess), threads=1)
    for column in range(1 + VIEWS):
        expected = validated.fetch(range(PICTURES), 0) if column == 0 else trained.fetch(range(PICTURES), column - 1)
        for row in range(PICTURES):
            top, left = GAP + row * (48 + LINE + GAP) + LINE, GAP + column * (48 + GAP)
            assert np.array_equal(sheet[top : top + 48, left : left + 48], expected[row].numpy())
            assert (sheet[top - LINE : top, :100] < 100).any()  # a caption
