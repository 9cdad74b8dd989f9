"""curves, confusion, reliability, learning_rates: what came of a run, as SVG pictures for people; each is a whole document.

Colours are Okabe and Ito's, which colour-blind people can tell apart, and no line is known by its colour alone.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from catdog.axes import Axis, finite, written
from catdog.svg import Box, Picture, shortened, width_of

MAX_POINTS = 600
"""Of one line. Of more, the least and the greatest in each stretch are drawn: about as many as a screen can show."""
MAX_NUMBERED = 50
"""Labels. A confusion matrix of more is drawn without numbers,"""
MAX_SHADED = 200
"""and of more than so many not at all."""
_MEASURES = {
    "loss": {
        "train_loss": ("while", "train, while training"), "train_eval_loss": ("train", "train, as val is"), "val_loss": ("val", "val"),
    },
    "accuracy": {
        "train_eval_accuracy": ("train", "train, as val is"), "val_accuracy": ("val", "val"),
        "val_balanced_accuracy": ("balanced", "val, balanced"),
    },
    "learning rate": {"learning_rate": ("rate", "")},
}
"""By panel: what is drawn, how it looks, and what it is called."""


class Line(NamedTuple):
    """Points, and what they are."""

    kind: str
    name: str
    """In the legend; "" where there is none."""
    points: list[tuple[float, float | None]]
    """x and y; without y there is a gap."""


def curves(epochs: Sequence[Mapping[str, Any]]) -> str:
    """Loss and accuracy over the epochs, and the learning rate where it is told: `epochs` are the lines of metrics.jsonl.

    An epoch that is told twice, as after a kill, is drawn as it was told last.
    """
    told = {finite(line.get("epoch")) or place: line for place, line in enumerate(epochs, start=1)}
    if not told:
        return _nothing("Loss and accuracy", "no epoch yet")
    numbers = sorted(told)
    panels = {
        named: [
            Line(kind, name, [(number, finite(told[number].get(measure))) for number in numbers])
            for measure, (kind, name) in lines.items()
        ]
        for named, lines in _MEASURES.items()
    }
    boxes = {"loss": Box(60, 60, 704, 250), "accuracy": Box(60, 290, 704, 480)}
    if any(y is not None for _, y in panels["learning rate"][0].points):
        boxes["learning rate"] = Box(60, 520, 704, 570)
    lowest = list(boxes.values())[-1]
    best = finite(epochs[-1].get("best_epoch"))
    picture = Picture(720, lowest.bottom + 44, "Loss and accuracy", _about(told, best))
    picture.write(60, 24, picture.title, "heading")
    x = Axis.over(numbers, 72, 692, whole=True)
    if best is not None and numbers[0] <= best <= numbers[-1]:
        _mark(picture, boxes.values(), x.at(best), f"best: epoch {written(best)}")
    _panel(picture, boxes["loss"], x, panels["loss"], named="loss", log=None)
    _panel(picture, boxes["accuracy"], x, panels["accuracy"], named="accuracy", held=(0.9, 1.0))
    if "learning rate" in boxes:
        _panel(picture, lowest, x, panels["learning rate"], named="learning rate")
    _below(picture, lowest, x, "epoch")
    return picture.svg()


def learning_rates(rates: Sequence[float], losses: Sequence[float], *, proposed: float | None) -> str:
    """The curve of a range test: the loss at each learning rate that was tried, and the rate that is proposed."""
    points = sorted(((rate, finite(loss)) for rate, loss in zip(rates, losses, strict=True) if _positive(rate)), key=lambda point: point[0])
    if not points:
        return _nothing("Learning rate range test", "no learning rate tried")
    mark = proposed if _positive(proposed) else None
    picture = Picture(
        720, 360, "Learning rate range test",
        f"Loss at {len(points)} learning rates from {points[0][0]:.3g} to {points[-1][0]:.3g}. "
        + ("None is proposed." if mark is None else f"Proposed: {mark:.3g}."),
    )
    picture.write(60, 24, picture.title, "heading")
    x = Axis.over([rate for rate, _ in points] + ([] if mark is None else [mark]), 72, 692, log=True)
    box = Box(60, 60, 704, 316)
    if mark is not None:
        _mark(picture, [box], x.at(mark), f"proposed: {mark:.3g}")
    _panel(picture, box, x, [Line("train", "", points)], named="loss while training", log=None)
    _below(picture, box, x, "learning rate")
    return picture.svg()


def reliability(bins: Sequence[Mapping[str, float]], *, ece: float, before: Sequence[Mapping[str, float]] = ()) -> str:
    """How often a network is right that is so sure: accuracy over confidence, and how many images are behind it.

    Each of `bins` has the mean `confidence` and the `accuracy` of its `images`; it stands at its confidence. `before` are those before
    calibration, drawn as a line.
    """
    held = sorted(_held(bins))
    if not held:
        return _nothing("Reliability", "no images yet")
    calibration = f"{ece:.3f}" if finite(ece) is not None else "unknown"
    told = [f"confidence {sure:.3f}, accuracy {right:.3f}, {images:,.0f} images" for sure, right, images in held]
    picture = Picture(480, 590, f"Reliability: expected calibration error {calibration}", "; ".join(told) + ".")
    picture.write(60, 24, picture.title, "heading")
    above, beneath = Box(60, 60, 460, 440), Box(60, 470, 460, 546)
    x, y = Axis(0, 1, 74, 446), Axis(0, 1, above.bottom, above.top + 4)
    amount = Axis(0, max(images for _, _, images in held), beneath.bottom, beneath.top + 4)
    _frame(picture, above, y, "accuracy", y.ticks())
    _frame(picture, beneath, amount, "images", [amount.high])
    nearest = min((after[0] - before[0] for before, after in pairwise(held)), default=1.0)
    half = max(1.5, min(12.0, 0.45 * nearest * (x.end - x.start)))
    for (sure, right, images), said in zip(held, told, strict=True):
        left, end = x.at(sure) - half, x.at(sure) + half
        top, ideal = y.at(right), y.at(sure)
        picture.box("all", Box(left, top, end, above.bottom), title=said)
        picture.box("gap" if top > ideal else "gap within", Box(left, min(top, ideal), end, max(top, ideal)), title=said)
        picture.line("line train", [(left, top), (end, top)])
        picture.box("all", Box(left, min(amount.at(images), beneath.bottom - 1), end, beneath.bottom), title=said)
    picture.line("mark", [(x.at(0), y.at(0)), (x.at(1), y.at(1))])
    if before:
        _draw(picture, Line("while", "", [(sure, right) for sure, right, _ in sorted(_held(before))]), x, y)
        picture.line("line while", [(above.left + 16, above.top + 20), (above.left + 40, above.top + 20)])
        picture.write(above.left + 46, above.top + 24, "before calibration")
    for at, kind, name in ((160, "all", "accuracy"), (246, "gap", "gap to the confidence")):
        picture.box(kind, Box(at, above.top - 20, at + 12, above.top - 10))
        picture.write(at + 18, above.top - 10, name)
    _below(picture, beneath, x, "confidence")
    return picture.svg()


def confusion(matrix: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    """Which label is taken for which: a row for each truth, a column for each answer, shaded by the share of the row.

    Raises:
        ValueError: the matrix has not a row and a column for each label.
    """
    count = len(labels)
    if len(matrix) != count or any(len(row) != count for row in matrix):
        raise ValueError(f"Expected a row of {count} numbers for each of {count} labels. Received: {sorted({len(row) for row in matrix})}.")
    images, right = sum(map(sum, matrix)), sum(matrix[place][place] for place in range(count))
    if not images or count > MAX_SHADED:
        return _nothing("Confusion", f"{count} labels are too many to draw" if images else "no images yet")
    cell = max(16.0, min(110.0, 560 / count)) if count <= MAX_NUMBERED else max(4.0, 700 / count)
    names, size = [shortened(label) for label in labels], max(9.0, min(13.0, cell * 0.7))
    longest = max(width_of(name, size) for name in names)
    turn = 0 if longest <= cell - 6 else -50 if count <= MAX_NUMBERED else -90
    high, wide = abs(math.sin(math.radians(turn))) * longest, math.cos(math.radians(turn)) * longest if turn else 0
    left, top, side = longest + 32, 76 + max(high, size), cell * count
    width = max(left + side + wide + 24, 440)
    left += max(0.0, (width - wide - side - left - 24) / 3)
    grid = Box(left, top, left + side, top + side)
    title = f"Confusion: {right:,} of {images:,} right"
    picture = Picture(width, grid.bottom + 24, title, f"A row for each truth, a column for each answer. {_mistaken(matrix, labels)}")
    picture.write(24, 24, title, "heading")
    picture.write(24, 44, "rows: the truth · columns: the answer · shade: share of the row", "faint")
    _labels(picture, grid, labels, size=size, turn=turn)
    (_numbers if count <= MAX_NUMBERED else _shades)(picture, grid, matrix, labels)
    return picture.svg()


def _about(told: Mapping[float, Mapping[str, Any]], best: float | None) -> str:
    last = max(told)
    figures = [(measure, finite(told[last].get(measure))) for lines in _MEASURES.values() for measure in lines]
    known = ", ".join(f"{measure} {value:.4g}" for measure, value in figures if value is not None)
    so_far = f" The best so far is epoch {written(best)}." if best is not None else ""
    return f"{len(told)} epochs.{so_far} At epoch {written(last)}: {known or 'nothing'}."


def _panel(
    picture: Picture, box: Box, x: Axis, lines: Sequence[Line], *, named: str, log: bool | None = False, held: Iterable[float] = (),
) -> None:
    """Lines in a frame, with a legend of those that have a value. The axis reaches over `held` too."""
    shown = [line for line in lines if any(y is not None for _, y in line.points)]
    values = [y for line in shown for _, y in line.points if y is not None]
    y = Axis.over([*values, *(held if values else ())], box.bottom - 6, box.top + 6, log=log)
    ticks = y.ticks() if values else []
    _frame(picture, box, y, named, ticks if box.bottom - box.top > 100 else ticks[:: max(1, len(ticks) - 1)])
    if not values:
        picture.write((box.left + box.right) / 2, (box.top + box.bottom) / 2, "nothing measured", "faint middle")
    at = box.right + 16
    for line in reversed(shown):
        if line.name:
            at -= width_of(line.name) + 46
            picture.line(f"line {line.kind}", [(at, box.top - 14), (at + 24, box.top - 14)])
            picture.write(at + 30, box.top - 10, line.name)
    for line in shown:
        _draw(picture, line, x, y)


def _draw(picture: Picture, line: Line, x: Axis, y: Axis) -> None:
    """A line with its gaps; a point between two gaps is a dot."""
    runs: list[list[tuple[float, float]]] = [[]]
    for across, up in _thinned(line.points):
        if up is None:
            runs.append([])
        else:
            runs[-1].append((x.at(across), y.at(up)))
    if any(len(run) > 1 for run in runs):
        picture.line(f"line {line.kind}", *(run for run in runs if len(run) > 1))
    if any(len(run) == 1 for run in runs):
        picture.line(f"dot {line.kind}", *(run for run in runs if len(run) == 1), dots=True)


def _thinned(points: list[tuple[float, float | None]]) -> list[tuple[float, float | None]]:
    if len(points) <= MAX_POINTS:
        return points
    kept: list[tuple[float, float | None]] = []
    stretch = math.ceil(len(points) / (MAX_POINTS // 2))
    for first in range(0, len(points), stretch):
        there = [(y, x) for x, y in points[first : first + stretch] if y is not None]
        kept += sorted({(x, y) for y, x in (min(there), max(there))}) if there else [(points[first][0], None)]
    return kept


def _frame(picture: Picture, box: Box, y: Axis, named: str, ticks: Sequence[float]) -> None:
    for value in ticks:
        picture.line("grid", [(box.left, y.at(value)), (box.right, y.at(value))])
        text = written(value)
        picture.write(box.left - 6, y.at(value) + 4, text, "faint end", size=min(12.0, (box.left - 8) / width_of(text, 1)))
    picture.line("edge", [(box.left, box.top), (box.left, box.bottom), (box.right, box.bottom)])
    picture.write(box.left, box.top - 10, named)


def _below(picture: Picture, box: Box, x: Axis, named: str) -> None:
    for value in x.ticks(8):
        picture.line("edge", [(x.at(value), box.bottom), (x.at(value), box.bottom + 4)])
        picture.write(x.at(value), box.bottom + 17, written(value), "faint middle")
    picture.write((box.left + box.right) / 2, box.bottom + 34, named, "middle")


def _mark(picture: Picture, boxes: Iterable[Box], x: float, text: str) -> None:
    """A vertical line through panels, which the upper right corner explains."""
    for box in boxes:
        picture.line("mark", [(x, box.top), (x, box.bottom)])
    left = picture.width - 16 - width_of(text)
    picture.line("mark", [(left - 8, 14), (left - 8, 28)])
    picture.write(left, 24, text)


def _labels(picture: Picture, grid: Box, labels: Sequence[str], *, size: float, turn: float) -> None:
    """The labels at both sides of a grid: each, or as many as there is room for."""
    cell = (grid.right - grid.left) / len(labels)
    for place in range(0, len(labels), math.ceil(size / cell)):
        middle, label = (place + 0.5) * cell, labels[place]
        picture.write(grid.left - 8, grid.top + middle + size * 0.35, shortened(label), "end", size=size, title=label)
        across = grid.left + middle + (size * 0.35 if turn else 0)
        picture.write(across, grid.top - 8, shortened(label), "" if turn else "middle", size=size, turn=turn, title=label)


def _numbers(picture: Picture, grid: Box, matrix: Sequence[Sequence[int]], labels: Sequence[str]) -> None:
    """A square for each pair of labels, with its number, and its share where there is room."""
    cell = (grid.right - grid.left) / len(labels)
    size = min(16.0, cell * 0.45, (cell - 2) / (0.6 * max(len(str(number)) for row in matrix for number in row)))
    with_share = cell >= 44
    for down, across, number, share in _cells(matrix):
        x, y = grid.left + across * cell, grid.top + down * cell
        said = f"{shortened(labels[down])}, answered {shortened(labels[across])}: {number:,} of {sum(matrix[down]):,}" if number else ""
        picture.box(f"cell {_hue(down, across)}", Box(x, y, x + cell, y + cell), opacity=_shade(share), title=said)
        if number or with_share:
            ink = "faint" if not number else "on" if down == across and share > 0.7 else ""
            lift = 7 if number and with_share else 0
            picture.write(x + cell / 2, y + cell / 2 + size * 0.35 - lift, f"{number}", f"number {ink}", size=size)
            if lift:
                picture.write(x + cell / 2, y + cell / 2 + 14, f"{share:.0%}", f"number {ink}", size=11)


def _shades(picture: Picture, grid: Box, matrix: Sequence[Sequence[int]], labels: Sequence[str]) -> None:
    """A path for each of twenty shades, in units of cells: a square for each of 40,000 pairs would be megabytes."""
    cell = (grid.right - grid.left) / len(labels)
    shades: dict[tuple[int, str], list[str]] = {}
    for down, across, number, share in _cells(matrix):
        if number:
            shades.setdefault((math.ceil(20 * _shade(share)), _hue(down, across)), []).append(f"M{across} {down}.5h1")
    place = f"translate({grid.left:.1f} {grid.top:.1f}) scale({cell:.4f})"
    for (shade, hue), squares in sorted(shades.items()):
        picture.path(f"square {hue}", "".join(squares), stroke_opacity=f"{shade / 20:.2f}", transform=place)
    for down, (label, row) in enumerate(zip(labels, matrix, strict=True)):
        y = grid.top + down * cell
        picture.box("touch", Box(grid.left, y, grid.right, y + cell), title=f"{label}: {row[down]:,} of {sum(row):,} right")
    picture.line("edge", [grid[:2], (grid.right, grid.top), grid[2:], (grid.left, grid.bottom), grid[:2]])


def _cells(matrix: Sequence[Sequence[int]]) -> Iterator[tuple[int, int, int, float]]:
    """Row, column, number, share of the row."""
    for down, row in enumerate(matrix):
        whole = sum(row)
        for across, number in enumerate(row):
            yield down, across, number, number / whole if whole else 0.0


def _shade(share: float) -> float:
    """How strong a share is drawn: one of a hundredth must still be seen."""
    return math.sqrt(share)


def _hue(down: int, across: int) -> str:
    return "right" if down == across else "wrong"


def _mistaken(matrix: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    """The most frequent mistakes, in words."""
    wrong = [(-number, down, across) for down, across, number, _ in _cells(matrix) if number and down != across]
    most = [f"{labels[down]} for {labels[across]} ({-number:,})" for number, down, across in sorted(wrong)[:5]]
    return f"Most often mistaken: {', '.join(most)}." if most else "None is mistaken."


def _held(bins: Iterable[Mapping[str, float]]) -> Iterator[tuple[float, float, float]]:
    """Confidence, accuracy, images of the bins that can be drawn."""
    for one in bins:
        sure, right, images = (finite(one.get(name)) for name in ("confidence", "accuracy", "images"))
        if sure is not None and right is not None and images is not None and images > 0:
            yield sure, right, images


def _positive(value: float | None) -> bool:
    return (finite(value) or 0.0) > 0


def _nothing(title: str, text: str) -> str:
    picture = Picture(480, 120, title, text)
    picture.write(24, 34, title, "heading")
    picture.write(24, 72, text, "faint")
    return picture.svg()
