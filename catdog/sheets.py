"""contact_sheet: what a network sees, for people to look at: each row a picture as validated, then as trained, epoch by epoch."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from catdog import loaders
from catdog.datasets import Dataset, Record
from catdog.images import Preprocess
from catdog.loaders import Pictures

PICTURES = 12
"""Rows of a sheet, shared by the labels."""
VIEWS = 7
"""Epochs of which a row shows the view."""
GAP = 6
"""Pixels between pictures."""
LINE = 22
"""Pixels above a row for its caption."""
_PAPER, _INK = (250, 250, 248), (60, 60, 58)


def contact_sheet(
    dataset: Dataset, records: Sequence[Record], preprocess: Preprocess, *, augment: str, seed: int, threads: int,
) -> Image.Image:
    """Draw the first pictures of each label among `records` (those that are trained on), through the loader that training uses."""
    shown = _of_each_label(dataset, records)
    plain = loaders.pixels(Pictures(dataset, shown, preprocess), threads=threads)
    trained = loaders.pixels(Pictures(dataset, shown, preprocess, augment, seed), threads=threads)
    places = range(len(shown))
    columns = [plain.fetch(places, 0).numpy(), *(trained.fetch(places, epoch).numpy() for epoch in range(VIEWS))]
    side = preprocess.image_size
    sheet = Image.new("RGB", (GAP + len(columns) * (side + GAP), GAP + len(shown) * (side + LINE + GAP)), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for row, record in enumerate(shown):
        top = GAP + row * (side + LINE + GAP)
        caption = f"{record.label}: {record.name}   (as validated, then epochs 1 to {VIEWS})"
        pen.text((GAP, top), caption.encode("ascii", "replace").decode(), _INK, font)  # that font knows no other letters
        for column, views in enumerate(columns):
            sheet.paste(Image.fromarray(np.ascontiguousarray(views[row])), (GAP + column * (side + GAP), top + LINE))
    return sheet


def _of_each_label(dataset: Dataset, records: Sequence[Record]) -> list[Record]:
    """In turn from each label, so that the first rows show every answer."""
    by_label = [[record for record in records if record.label == label] for label in dataset.labels]
    turns = [ones[turn] for turn in range(PICTURES) for ones in by_label if turn < len(ones)]
    return turns[:PICTURES]
