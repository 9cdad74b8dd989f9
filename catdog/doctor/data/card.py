"""is_as_declared; D07: what the values of a tensor say about the picture, by a test card whose colours and corners are known.

    card --prepare--> values;  undone by the declared normalisation they are the card's, channel by channel, to 2/255

Two cards with the same colours in other places and proportions: a preparation that looks at the picture as a whole (autocontrast,
normalisation by each picture's own mean) makes other values of one colour, and is not judged.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from catdog.doctor.data.census import entries
from catdog.doctor.data.deviations import REARRANGED, SMALL, Explanation, Normalise, explain, grey, undone
from catdog.doctor.data.draws import Draw, drawn
from catdog.doctor.data.geometry import Frame, Prepare, channels_first, encoded, is_flat, trace
from catdog.doctor.examination import CannotTell, Examination, examination
from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.patient import ANY_ERROR, Data, Patient
from catdog.doctor.source import defined_at

CELLS = 4
"""Patches a side of a card."""
COLOURS = np.array([
    (0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 255, 255), (255, 0, 255), (255, 255, 0),
    (32, 32, 32), (96, 96, 96), (160, 160, 160), (224, 224, 224), (200, 40, 90), (30, 180, 120), (250, 130, 10), (70, 60, 210),
], dtype=np.uint8)
ORDERS = (tuple(range(16)), (0, 8, 4, 0, 15, 8, 12, 0, 4, 13, 8, 0, 9, 0, 12, 8))
"""Which colour stands in which patch of each card: the second is darker by far."""
FEW_LEVELS = 8
"""Values between black and white; a picture of 16 pixels a side still has as many."""
VEILED = 0.3
"""Of the difference between train and validation: what augmentation may leave unexplained."""
AGREEING = 12
"""Pictures that must all say the same before train is judged by its pictures."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A card as it comes out."""

    expected: Tensor
    """(C, patches) in 0..1."""
    received: Tensor
    """(C, patches)"""


def read(prepare: Prepare, frame: Frame, order: Sequence[int]) -> Reading:
    """Lay a card over what the frame shows, push it through, and take the middle of each patch that comes out."""
    width, height = frame.size
    left, top, right, bottom = frame.box
    columns = _cells((np.arange(width) + 0.5) / width, left, right)
    rows = _cells((np.arange(height) + 0.5) / height, top, bottom)
    patches = COLOURS[list(order)]
    picture = patches[rows.clip(0, CELLS - 1).astype(int)[:, None] * CELLS + columns.clip(0, CELLS - 1).astype(int)[None, :]]
    values = channels_first(prepare(encoded(picture)))
    across, down = (frame.across - left) / (right - left) * CELLS, (frame.down - top) / (bottom - top) * CELLS
    expected, received = [], []
    for place in range(CELLS**2):
        row, column = divmod(place, CELLS)
        inner = (np.abs(across - column - 0.5) < 0.25) & (np.abs(down - row - 0.5) < 0.25)
        if inner.any():
            expected.append(torch.from_numpy(patches[place] / 255))
            received.append(values[:, torch.from_numpy(inner)].double().median(dim=1).values)
    return Reading(torch.stack(expected, dim=1), torch.stack(received, dim=1))


def _cells(places: NDArray[np.float64], first: float, last: float) -> NDArray[np.float64]:
    return np.floor((places - first) / (last - first) * CELLS)


@examination(
    "D07", "tensor truth", needs=("data",),
    catches="colours in the wrong order, values normalised twice or not at all, torn or turned pictures, pictures that are all the same",
)
def tensor_truth(patient: Patient) -> Iterator[Finding]:
    """Push two test cards through `prepare`; then look at real pictures."""
    found = list(_of_items(patient))
    yield from found
    data = patient.data
    if data is None or data.prepare is None:
        if not found:
            raise CannotTell("no prepare")
        return
    yield from _of_card(data)
    if not found:
        yield from _of_train(patient, data)


def _of_card(data: Data) -> Iterator[Finding]:
    prepare: Prepare = data.prepare  # type: ignore[assignment]
    place = defined_at(prepare)
    culprit = Culprit(getattr(prepare, "__name__", type(prepare).__name__), str(place) if place else None)
    frame, torn = _frame(prepare)
    levels = _levels(prepare)
    if levels <= FEW_LEVELS:
        yield Finding(
            "D07", "error" if data.normalise else "warning", f"Of 256 steps from black to white {levels} are left: the values are cut",
            culprit, ("of a ramp from black to white",), "Cast to float before the normalisation, and to nothing after it.",
        )
        return
    if torn is not None:
        yield Finding("D07", "error", "The " + torn[4:], culprit, (
            "the values of a picture whose brightness grows from left to right come out in no order, and in order once the tensor is put "
            "together the right way",
        ), "Move the channels by permute(2, 0, 1) or transpose; reshape and view tear a picture up.")
        return
    if frame.orientation == "mirrored":
        yield Finding("D07", "warning", "What validation sees is mirrored", culprit, (), "Leave mirroring to training.")
    elif frame.orientation == "scrambled":
        yield Finding("D07", "warning", "Neighbours in a picture are none in the tensor", culprit, (), "Look at what prepare does.")
    elif frame.orientation != "upright":
        yield Finding(
            "D07", "error", f"What validation sees is {frame.orientation}", culprit,
            ("the corners of a test card come out in other corners",), "Keep height before width; turn and mirror only in training.",
        )
    yield from _of_colours(data, [read(prepare, frame, order) for order in ORDERS], culprit)


def is_as_declared(prepare: Prepare, data: Data) -> bool | None:
    """Whether the colours of a card come out as the data organ declares; None where nobody can tell."""
    try:
        frame, torn = _frame(prepare)
        reading = read(prepare, frame, ORDERS[0])
        return torn is None and frame.orientation == "upright" and _wrong(reading, data.normalise, data.channels) is None
    except ANY_ERROR:  # it refuses a card
        return None


def _frame(prepare: Prepare) -> tuple[Frame, str | None]:
    """How a square picture is shown; and what is torn, if that alone explains it."""
    probe = torch.as_tensor(prepare(encoded(np.zeros((64, 64, 3), np.uint8))))
    again = torch.as_tensor(prepare(encoded(np.zeros((64, 64, 3), np.uint8))))
    if not torch.equal(probe, again):
        raise CannotTell("prepare makes something else of the same picture each time")
    side = 2 * max(channels_first(probe).shape[1:])
    frame = trace(prepare, side, side)
    if frame is not None and frame.orientation != "scrambled":
        return frame, None
    for name, mend in _mended(prepare):
        mended = trace(mend, side, side)
        if mended is not None and mended.orientation == "upright":
            return mended, name
    if frame is None:
        raise CannotTell("prepare judges a picture as a whole; which value comes from which cannot be followed")
    return frame, None


def _levels(prepare: Prepare) -> int:
    """How many values a channel has of a picture that grows brighter from left to right."""
    ramp = np.broadcast_to(np.linspace(0, 255, 256).astype(np.uint8)[None, :, None], (256, 256, 3))
    return max(len(torch.unique(channel)) for channel in channels_first(prepare(encoded(ramp))))


def _mended(prepare: Prepare) -> Iterator[tuple[str, Prepare]]:
    def as_rows(data: bytes) -> Tensor:
        values = channels_first(prepare(data))
        return values.reshape(*values.shape[1:], -1).permute(2, 0, 1)

    def as_channels(data: bytes) -> Tensor:
        values = channels_first(prepare(data))
        return values.permute(1, 2, 0).reshape(values.shape)

    yield REARRANGED, as_rows
    yield REARRANGED.replace("(H, W, C)", "(C, H, W)", 1).replace("to (C, H, W)", "to (H, W, C)"), as_channels


def _of_colours(data: Data, readings: Sequence[Reading], culprit: Culprit) -> Iterator[Finding]:
    normalise = data.normalise
    said = [_wrong(reading, normalise, data.channels) for reading in readings]
    if None in said:  # one of the cards is right
        return
    if not _same_mapping(readings):
        raise CannotTell("prepare makes different values of one colour, by the rest of the picture")
    worst, explanations = said[0][0], [one[1] for one in said if one is not None]  # type: ignore[index]
    declared = f"mean {tuple(normalise[0])} and deviation {tuple(normalise[1])}" if normalise else "values in 0..255 or 0..1"
    evidence = [f"declared: {declared}; undone by it, a known colour is off by {worst:.3f} of the range from black to white"]
    colour = readings[0]
    for name, place in (("red", 2), ("blue", 4)):
        evidence.append(f"{name} comes out as {', '.join(f'{value:.3f}' for value in colour.received[:, place].tolist())}")
    names = {explanation.name for explanation in explanations if explanation is not None}
    if len(names) == 1 and None not in explanations:
        (name,) = names
        yield Finding(
            "D07", "error", name[:1].upper() + name[1:], culprit,
            (*evidence, f"explains {1 - explanations[0].left:.1%} of it on two cards"),  # type: ignore[union-attr]
            "Mend prepare, or declare what it is meant to do (normalise, channels).",
        )
    else:
        yield Finding(
            "D07", "error" if normalise else "warning", "The values are not what is declared, and no single known mistake explains them",
            culprit, tuple(evidence), "Declare what prepare is meant to do (normalise, channels), or mend it.",
        )


def _wrong(reading: Reading, normalise: Normalise, channels: str) -> tuple[float, Explanation | None] | None:
    """By how much a card is off, and why; None where it is as declared."""
    expected = reading.expected[["RGB".index(one) for one in channels]] if set(channels) == set("RGB") else reading.expected
    if len(reading.received) == 1:
        expected = grey(expected)[:1]
    try:
        values = undone(reading.received, normalise)
    except RuntimeError as error:
        raise CannotTell(f"normalise is declared for other channels than the {len(reading.received)} there are") from error
    candidates = [values] if normalise is not None else [values, reading.received.double(), reading.received.double() / 255]
    worst = min(float((one - expected).abs().max()) for one in candidates)
    # Only the brightness in every channel: grey pictures for a network that wants three channels.
    dull = min(float((one - grey(expected)).abs().max()) for one in candidates)
    if min(worst, dull - 0.5 / 255) <= SMALL:
        return None
    return worst, explain([_declared(expected, normalise)], [reading.received], normalise, layout=False)


def _declared(expected: Tensor, normalise: Normalise) -> Tensor:
    if normalise is None:
        return expected
    mean, deviation = (torch.tensor(list(values), dtype=torch.float64).reshape(-1, 1) for values in normalise)
    return (expected - mean) / deviation


def _same_mapping(readings: Sequence[Reading]) -> bool:
    """Whether a colour comes out the same on both cards."""
    first, second = readings
    span = float(first.received.max() - first.received.min()) or 1.0
    known = {tuple(colour.tolist()): value for colour, value in zip(first.expected.T, first.received.T, strict=True)}
    return all(
        float((known[key] - value).abs().max()) <= 0.02 * span
        for colour, value in zip(second.expected.T, second.received.T, strict=True) if (key := tuple(colour.tolist())) in known
    )


def _of_items(patient: Patient) -> Iterator[Finding]:
    """Real pictures: numbers that are none, and data sets that give one picture for all."""
    data: Data = patient.data  # type: ignore[assignment]
    for name in data.splits:
        found = drawn(patient, name)
        broken = [draw for draw in found if draw.inputs.is_floating_point() and not bool(torch.isfinite(draw.inputs).all())]
        if broken:
            yield Finding(
                "D07", "error", f"{len(broken)} of {len(found)} items of {name} have values that are no numbers",
                Culprit(_path(data, broken[0])), (f"item {broken[0].position}",),
                "Look for a division by a deviation of 0, or a broken file.",
            )
        different = {_path(data, draw) for draw in found}
        contents = {(tuple(draw.inputs.shape), bytes(draw.inputs.contiguous().flatten().view(torch.uint8).numpy())) for draw in found}
        if len(different) >= 8 and len(contents) == 1 and not _one_file(patient, name):
            yield Finding(
                "D07", "error", f"All {len(found)} items of {name} that were looked at are one and the same tensor", Culprit(name),
                (f"of {len(different)} different files",), "Look whether __getitem__ uses its index, and what a cast leaves.",
            )
        flat = [draw for draw in found if is_flat(draw.inputs)]
        if found and len(contents) > 1 and len(flat) > 0.5 * len(found):
            yield Finding(
                "D07", "warning", f"{len(flat)} of {len(found)} items of {name} are of one value all over", Culprit(_path(data, flat[0])),
                (), "Look at the pictures that train sees.",
            )


def _one_file(patient: Patient, name: str) -> bool:
    """Whether the files themselves are of one content."""
    paths = [entry.path for entry in entries(patient) if entry.split == name][:8]
    return len({path.read_bytes() for path in paths if path.exists()}) <= 1


def _path(data: Data, draw: Draw) -> str:
    return str(data.splits[draw.split].paths[draw.position])


def _of_train(patient: Patient, data: Data) -> Iterator[Finding]:
    """Whether train's values are made as those of validation are: by the quantiles of each picture, which no crop moves far."""
    if "train" not in data.splits:
        return
    references, received = [], []
    for draw in drawn(patient, "train")[:24]:
        try:
            reference = channels_first(data.prepare(data.splits["train"].paths[draw.position].read_bytes()))  # type: ignore[misc]
            values = channels_first(draw.inputs)
        except ANY_ERROR:  # a file that cannot be read is D01's
            continue
        if len(reference) == len(values):
            references.append(_quantiles(reference))
            received.append(_quantiles(values))
    if len(references) < AGREEING:
        return
    explanation = explain(references, received, data.normalise, layout=False, enough=VEILED)
    if explanation is None or not _far(references, received):
        return
    alone = [
        explain([one], [other], data.normalise, layout=False, enough=0.5, only=explanation.name)
        for one, other in zip(references, received, strict=True)
    ]
    agreeing = sum(one is not None for one in alone)
    yield Finding(
        "D07", "error" if agreeing >= 0.9 * len(alone) else "warning", f"In train, otherwise than in validation, {explanation.name}",
        Culprit("train"),
        (f"explains {1 - explanation.left:.0%} of the difference between {len(alone)} pictures as train and as prepare make them",
         f"{agreeing} of {len(alone)} pictures say so one by one"),
        "Prepare train's pictures as validation's, apart from the augmentation.",
    )


def _quantiles(values: Tensor) -> Tensor:
    """(C, 9)"""
    return torch.quantile(values.double().flatten(1), torch.linspace(0.05, 0.95, 9, dtype=torch.float64), dim=1).T


def _far(references: Sequence[Tensor], received: Sequence[Tensor]) -> bool:
    """Whether they differ by more than augmentation does: a twentieth of the range of the values."""
    difference = torch.stack([(one - other).abs().mean() for one, other in zip(references, received, strict=True)]).mean()
    every = torch.cat([one.flatten() for one in references])
    return float(difference) > 0.05 * float(every.max() - every.min())


EXAMINATIONS: tuple[Examination, ...] = (tensor_truth,)
