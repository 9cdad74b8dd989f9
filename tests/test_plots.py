"""The pictures say what the numbers say, whatever the numbers and the labels are."""

import math
import re
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from catdog import plots

SVG = "{http://www.w3.org/2000/svg}"
ATTRIBUTES = {
    "class", "viewBox", "role", "font-family", "font-size", "x", "y", "width", "height", "d", "transform", "fill-opacity", "stroke-opacity",
}
LOSS_TOP, LOSS_BOTTOM = 60, 250
"""Where the panel of the losses stands."""
HOSTILE = (
    "</title><script>alert(1)</script>", '" onload="alert(1)', "]]><!--", "&lt;b&gt; &#0; &unknown;", "\x00\x1b[31m\x7f", "\u202egnp.tac",
    "\ud800\ufffe", "{{ 7*7 }}{% raw %}", "'><image href='https://example.org/x'/>", "a" * 64, "猫" * 30, "",
)


def parse(svg: str) -> ElementTree.Element:
    """The document, if it is well-formed, and needs and does nothing beside being a picture."""
    svg.encode("utf-8")  # no half of a surrogate pair
    root = ElementTree.fromstring(svg)
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    assert width > 0 and height > 0
    assert root.find(f"{SVG}title") is not None and root.find(f"{SVG}desc") is not None
    for element in root.iter():
        assert element.tag.removeprefix(SVG) in ("svg", "title", "desc", "style", "rect", "path", "text"), element.tag
        assert set(element.attrib) <= ATTRIBUTES, element.attrib
        for name, value in element.attrib.items():
            assert not re.search(r"nan|inf|[<>&;:/\"']", value), (name, value)
    style = root.findtext(f"{SVG}style") or ""
    assert "@media (prefers-color-scheme: dark)" in style and "url(" not in style and "@import" not in style
    return root


def drawn(root: ElementTree.Element, kind: str) -> list[list[tuple[float, float]]]:
    """The runs of points of the paths of these classes."""
    paths = [element.attrib["d"] for element in root.iter(f"{SVG}path") if element.get("class") == kind]
    runs = [run for path in paths for run in path.removeprefix("M").split("M")]
    return [[(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", run)] for run in runs]


def losses(root: ElementTree.Element, kind: str) -> list[tuple[float, float]]:
    """The points of the first panel: those in the others, and in the legend, stand elsewhere."""
    runs = [*drawn(root, f"line {kind}"), *drawn(root, f"dot {kind}")]
    return [point for run in runs for point in run if LOSS_TOP <= point[1] <= LOSS_BOTTOM]


def texts(root: ElementTree.Element) -> list[str]:
    """What stands in the picture to be read, without what only a pointer is told."""
    return [(element.text or "") + "".join(title.tail or "" for title in element) for element in root.iter(f"{SVG}text")]


def told(root: ElementTree.Element, name: str = "desc") -> str:
    return root.findtext(f"{SVG}{name}") or ""


def test_known_values_stand_at_known_places() -> None:
    root = parse(plots.curves([{"epoch": 1, "val_loss": 2.0}, {"epoch": 2, "val_loss": 1.0}, {"epoch": 5, "val_loss": 1.5}]))
    assert losses(root, "val") == [(72, 66), (227, 244), (692, 155)]


def test_everything_is_drawn_and_told() -> None:
    epochs = [
        {
            "epoch": epoch, "train_loss": 0.7 / epoch, "train_eval_loss": 0.6 / epoch, "val_loss": 0.5 / epoch, "train_eval_accuracy": 0.9,
            "val_accuracy": 0.8, "val_balanced_accuracy": 0.7, "learning_rate": 0.1 / epoch, "best_epoch": epoch,
        }
        for epoch in (1, 2, 3)
    ]
    root = parse(plots.curves(epochs))
    for kind in ("while", "train", "val", "balanced", "rate"):
        assert [run for run in drawn(root, f"line {kind}") if len(run) == 3], kind
    assert {"loss", "accuracy", "learning rate", "epoch", "train, while training", "train, as val is", "val, balanced"} <= set(texts(root))
    assert "best: epoch 3" in texts(root)
    assert told(root) == (
        "3 epochs. The best so far is epoch 3. At epoch 3: train_loss 0.2333, train_eval_loss 0.2, val_loss 0.1667, "
        "train_eval_accuracy 0.9, val_accuracy 0.8, val_balanced_accuracy 0.7, learning_rate 0.03333."
    )


def test_the_best_epoch_is_that_of_the_last_line() -> None:
    root = parse(plots.curves([{"epoch": epoch, "val_loss": 1.0, "best_epoch": 1 if epoch < 3 else 2} for epoch in (1, 2, 3)]))
    assert "best: epoch 2" in texts(root)
    upright = [run for run in drawn(root, "mark") if run[0][1] == LOSS_TOP]
    assert upright == [[(382, LOSS_TOP), (382, LOSS_BOTTOM)]]


@pytest.mark.parametrize("best", [None, 7, 0, math.nan, "2", 10**400])
def test_a_best_epoch_that_is_not_there_is_not_marked(best: Any) -> None:
    root = parse(plots.curves([{"epoch": 1, "val_loss": 1.0}, {"epoch": 2, "val_loss": 1.0, "best_epoch": best}]))
    assert drawn(root, "mark") == []


def test_no_epoch_and_nothing_measured_say_so() -> None:
    assert "no epoch yet" in texts(parse(plots.curves([])))
    assert texts(parse(plots.curves([{"epoch": 1}]))).count("nothing measured") == 2


def test_one_epoch_is_dots() -> None:
    root = parse(plots.curves([{"epoch": 1, "train_loss": 0.3, "val_loss": 0.5, "val_accuracy": 0.9}]))
    assert [len(run) for run in drawn(root, "dot val")] == [1, 1] and len(drawn(root, "dot while")) == 1


@pytest.mark.parametrize("lack", [None, math.nan, math.inf, -math.inf, "0.5", True, [], 10**400])
def test_what_cannot_be_drawn_is_a_gap(lack: Any) -> None:
    values = [0.5, 0.4, lack, 0.3, lack, 0.2, 0.1]
    root = parse(plots.curves([{"epoch": epoch, "val_loss": value} for epoch, value in enumerate(values, start=1)]))
    assert [len(run) for run in drawn(root, "line val") if run[0][1] >= LOSS_TOP] == [2, 2]
    assert [len(run) for run in drawn(root, "dot val")] == [1]


def test_an_epoch_that_is_told_twice_is_drawn_as_it_was_told_last() -> None:
    lines = [{"epoch": 1, "val_loss": 9.0}, {"epoch": 2, "val_loss": 1.0}, {"epoch": 1, "val_loss": 2.0}]
    root = parse(plots.curves(lines))
    assert losses(root, "val") == [(72, 66), (692, 244)]
    assert told(root).startswith("2 epochs.")


@settings(max_examples=60)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=30))
@example([0.0])
@example([1e308, -1e308, 5e-324])
@example([1.7976931348623157e308] * 2)
def test_a_larger_loss_is_never_drawn_lower(values: list[float]) -> None:
    root = parse(plots.curves([{"epoch": epoch, "val_loss": value} for epoch, value in enumerate(values, start=1)]))
    points = losses(root, "val")
    assert len(points) == len(values) and all(60 <= x <= 704 for x, _ in points)
    heights = [y for _, (_, y) in sorted(zip(values, points, strict=True))]
    assert heights == sorted(heights, reverse=True)


@settings(max_examples=30)
@given(st.lists(st.tuples(*[st.floats(allow_nan=True, allow_infinity=True)] * 3), max_size=10), st.floats())
def test_any_floats_make_a_picture_of_a_range_test_and_of_reliability(triples: list[tuple[float, float, float]], other: float) -> None:
    curve = plots.learning_rates([one for one, _, _ in triples], [two for _, two, _ in triples], proposed=other)
    diagram = plots.reliability([dict(zip(("confidence", "accuracy", "images"), three, strict=True)) for three in triples], ece=other)
    for svg in (curve, diagram):
        root = parse(svg)
        width, height = map(float, root.attrib["viewBox"].split()[2:])
        for path in (*drawn(root, "line train"), *drawn(root, "dot train")):
            assert all(0 <= x <= width and 0 <= y <= height for x, y in path)


def test_a_thousand_epochs_are_small_and_no_peak_is_lost() -> None:
    epochs = [
        {name: 0.5 + 0.4 * math.sin(epoch * place) for place, name in enumerate(
            ("train_loss", "train_eval_loss", "val_loss", "train_eval_accuracy", "val_accuracy", "val_balanced_accuracy", "learning_rate"),
            start=1,
        )} | {"epoch": epoch, "best_epoch": 1}
        for epoch in range(1, 1001)
    ]
    epochs[617]["val_loss"], epochs[303]["val_loss"] = 7.0, -3.0
    svg = plots.curves(epochs)
    assert len(svg.encode()) < 200 * 1024
    heights = [y for _, y in losses(parse(svg), "val")]
    assert (min(heights), max(heights)) == (66, 244)
    assert len(heights) <= plots.MAX_POINTS


def test_where_a_long_stretch_is_missing_a_thinned_line_has_its_gap() -> None:
    root = parse(plots.curves([{"epoch": epoch, "val_loss": None if 1000 < epoch < 2000 else 0.5 + epoch} for epoch in range(1, 3001)]))
    assert len([run for run in drawn(root, "line val") if len(run) > 2]) == 2


def test_a_range_test_marks_what_it_proposes() -> None:
    root = parse(plots.learning_rates([1e-4, 1e-3, 1e-2], [0.7, math.nan, 0.3], proposed=1e-3))
    assert drawn(root, "dot train") == [[(72, 66)], [(692, 310)]]
    assert [(382, 60), (382, 316)] in drawn(root, "mark")
    assert "proposed: 0.001" in texts(root) and told(root) == "Loss at 3 learning rates from 0.0001 to 0.01. Proposed: 0.001."
    assert "None is proposed." in told(parse(plots.learning_rates([1e-3], [0.5], proposed=None)))
    assert "no learning rate tried" in texts(parse(plots.learning_rates([], [], proposed=None)))


def test_a_proposal_beyond_the_tried_rates_is_inside_the_picture() -> None:
    root = parse(plots.learning_rates([1e-3, 1e-2], [0.7, 0.3], proposed=1e-1))
    assert [(692, 60), (692, 316)] in drawn(root, "mark")


def test_reliability_shows_accuracy_gap_and_images() -> None:
    bins = [{"confidence": 0.6, "accuracy": 0.5, "images": 10}, {"confidence": 0.9, "accuracy": 1.0, "images": 30}]
    root = parse(plots.reliability(bins, ece=0.1))
    assert told(root, "title") == "Reliability: expected calibration error 0.100"
    assert told(root) == "confidence 0.600, accuracy 0.500, 10 images; confidence 0.900, accuracy 1.000, 30 images."
    boxes = [element for element in root.iter(f"{SVG}rect") if len(element)]
    high = {kind: [float(one.attrib["height"]) for one in boxes if one.attrib["class"] == kind] for kind in ("all", "gap", "gap within")}
    assert high["all"] == pytest.approx([376 * 0.5, 72 / 3, 376, 72], abs=0.11)
    assert high["gap"] == high["gap within"] == pytest.approx([37.6], abs=0.11)


def test_reliability_of_no_images_says_so() -> None:
    assert "no images yet" in texts(parse(plots.reliability([], ece=0.0)))


def test_bars_do_not_overlap() -> None:
    bins = [{"confidence": sure, "accuracy": 0.5, "images": 1} for sure in (0.5, 0.51, 0.9)]
    root = parse(plots.reliability(bins, ece=0.1))
    bars = sorted({(float(one.attrib["x"]), float(one.attrib["width"])) for one in root.iter(f"{SVG}rect") if len(one)})
    assert len(bars) == 3 and all(x + width <= bars[place + 1][0] + 0.11 for place, (x, width) in enumerate(bars[:-1]))


def test_confusion_has_numbers_shares_and_shades() -> None:
    root = parse(plots.confusion([[8, 2], [0, 10]], ["cat", "dog"]))
    assert told(root, "title") == "Confusion: 18 of 20 right" and "cat for dog (2)." in told(root)
    assert texts(root)[2:] == ["cat", "cat", "dog", "dog", "8", "80%", "2", "20%", "0", "10", "100%"]
    cells = [one for one in root.iter(f"{SVG}rect") if (one.get("class") or "").startswith("cell")]
    assert [(one.attrib["class"], one.attrib["fill-opacity"]) for one in cells] == [
        ("cell right", "0.89"), ("cell wrong", "0.45"), ("cell wrong", "0.00"), ("cell right", "1.00"),
    ]
    assert [one.findtext(f"{SVG}title") for one in cells] == [
        "cat, answered cat: 8 of 10", "cat, answered dog: 2 of 10", None, "dog, answered dog: 10 of 10",
    ]


def test_a_label_without_images_has_an_empty_row() -> None:
    assert texts(parse(plots.confusion([[3, 0], [0, 0]], ["cat", "dog"])))[-2:] == ["0", "0"]


def test_fifty_labels_have_numbers_and_more_have_shades() -> None:
    for count, numbered in ((50, True), (51, False), (200, False)):
        matrix = [[7777 if across == down else down % 2 for across in range(count)] for down in range(count)]
        svg = plots.confusion(matrix, [f"label {place}" for place in range(count)])
        root = parse(svg)
        assert ("7777" in texts(root)) == numbered
        assert len(svg.encode()) < 2**20, count
        if not numbered:
            squares = [one.attrib for one in root.iter(f"{SVG}path") if "square" in one.attrib["class"]]
            assert sum(one["d"].count("M") for one in squares if one["class"] == "square right") == count
            assert sum(one["d"].count("M") for one in squares if one["class"] == "square wrong") == count // 2 * (count - 1)


def test_too_many_labels_or_none_are_said() -> None:
    assert "201 labels are too many to draw" in texts(parse(plots.confusion([[1] * 201] * 201, ["a"] * 201)))
    assert "no images yet" in texts(parse(plots.confusion([[0, 0], [0, 0]], ["a", "b"])))
    assert "no images yet" in texts(parse(plots.confusion([], [])))


@pytest.mark.parametrize("matrix", [[[1]], [[1, 2], [3]], [[1, 2]]])
def test_a_matrix_that_is_not_the_labels_is_refused(matrix: list[list[int]]) -> None:
    with pytest.raises(ValueError, match=r"Expected a row of 2 numbers for each of 2 labels\. Received:"):
        plots.confusion(matrix, ["cat", "dog"])


def test_hostile_labels_are_text() -> None:
    count = len(HOSTILE)
    root = parse(plots.confusion([[3] * count] * count, HOSTILE))
    titles = {element.text for element in root.iter(f"{SVG}title")}
    assert "</title><script>alert(1)</script>" in titles and "\\x00\\x1b[31m\\x7f" in titles and "\\u202egnp.tac" in titles
    assert "{{ 7*7 }}{% raw %}" in titles
    assert "a" * 23 + "…" in texts(root) and "a" * 64 in titles


@settings(max_examples=40)
@given(st.lists(st.text(max_size=40) | st.sampled_from(HOSTILE), min_size=2, max_size=4), st.booleans())
def test_any_text_is_text(labels: list[str], numbered: bool) -> None:
    several = labels if numbered else labels * 30
    parse(plots.confusion([[1] * len(several)] * len(several), several))
