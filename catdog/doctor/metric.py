"""L10: the metric certificate. What an evaluation really reports, told from answers of which loss and hits are known.

Nine images in batches of 4, 4 and 1: of batches of unlike size no wrong mean is right by accident.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from catdog.doctor.answers import plant
from catdog.doctor.examination import CannotTell, examination
from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.patient import Patient
from catdog.doctor.planting import exchanged, loader, planted
from catdog.doctor.source import Place, caller

SIZES = (4, 4, 1)
HITS = (True, True, True, False, False, True, False, False, True)
"""By image: 3 of 4, 1 of 4, 1 of 1. Of all 5 of 9; the mean over batches is 6 of 9."""
TOLERANCE = 1e-4
"""Relative: a sum of nine float32 in any order is nearer, and no two formulas are so near to each other."""


@dataclass(frozen=True, slots=True)
class _Figures:
    """By image."""

    values: Sequence[float]

    @property
    def batches(self) -> list[Sequence[float]]:
        """The same by batch."""
        ends = [sum(SIZES[: number + 1]) for number in range(len(SIZES))]
        return [self.values[end - size : end] for end, size in zip(ends, SIZES, strict=True)]

    @property
    def mean(self) -> float:
        """Over the images: what is right."""
        return sum(self.values) / len(self.values)

    def wrong(self) -> dict[str, float]:
        """What other formulas make of them."""
        means = [sum(batch) / len(batch) for batch in self.batches]
        total, images, number = sum(self.values), len(self.values), len(SIZES)
        return {
            "the sum of the batches' means, divided by the number of images": sum(means) / images,
            "the mean of the batches' means, in which a small last batch counts as much as a full one": sum(means) / number,
            "the sum of the batches' means, divided by nothing": sum(means),
            "the sum over the images, divided by the number of batches": total / number,
            "the sum over the images, divided by nothing": total,
            "the sum over the images, divided by the batches times the size of a full one": total / (number * SIZES[0]),
            "that of the last batch alone": means[-1],
            "the sum of the last batch, divided by the number of images": means[-1] * SIZES[-1] / images,
            "that of the first batch alone": means[0],
            "the mean without the last batch": sum(self.values[: -SIZES[-1]]) / (images - SIZES[-1]),
            "the sum without the last batch, divided by the number of images": sum(self.values[: -SIZES[-1]]) / images,
            "the mean over the batches' means without the last": sum(means[:-1]) / (number - 1),
            "the sum of the batches' means times the size of a full batch, divided by the number of images": sum(means) * SIZES[0] / images,
            "the median over the batches' means": sorted(means)[number // 2],
            "the best batch's": max(means),
            "the worst batch's": min(means),
        }


@examination(
    "L10", "metric certificate", catches="a loss or accuracy of a split that is not the mean over its images", needs=("evaluate", "loss"), passes=6,
)
def metric_certificate(patient: Patient) -> Iterator[Finding]:
    """Let the owner's evaluation look at known answers; what it says must be the mean over the images, or the formula is named that it fits."""
    inputs, target, logits, outputs = _known(patient)
    said, place = _evaluated(patient, inputs, target, logits)
    losses = [_Figures(values) for values in _losses(patient, outputs, target)]
    loss, accuracy = _said(said, "loss"), _said(said, "acc")
    if loss is None and accuracy is None:
        raise CannotTell(f"the evaluation returns {', '.join(said) or 'nothing'}: no loss and no accuracy")
    if loss is not None and losses:
        yield from _of_loss(patient, loss, losses, outputs, target, place)
    if accuracy is not None and logits.ndim == 2 and logits.shape[1] > 1:
        yield from _of_accuracy(accuracy, logits, target, place)


def _known(patient: Patient) -> tuple[Tensor, Tensor, Tensor, Callable[[slice], Any]]:
    """Nine images, their target, their logits, and what the network would return for some of them."""
    like, is_plain = plant(patient)
    inputs, target = patient.batch
    if target.is_floating_point() or target.ndim != 1 or like.ndim > 2:
        raise CannotTell("the target is no label for each image")
    if not is_plain:
        raise CannotTell("the network returns more than its logits")
    rows = [position % len(inputs) for position in range(len(HITS))]
    inputs = inputs[rows]
    generator = torch.Generator().manual_seed(1)
    if like.ndim == 1 or like.shape[1] == 1:
        target = torch.tensor([1, 0, 1, 1, 0, 0, 1, 0, 1], dtype=target.dtype, device=target.device)
        size = 0.3 + torch.arange(len(HITS)) / 4
        logits = ((2 * target.cpu() - 1) * size * (2 * torch.tensor(HITS).float() - 1)).reshape(-1, *like.shape[1:])
    else:
        labels = min(like.shape[1], max(2, patient.labels))
        target = (torch.arange(len(HITS)) * 5 // 3 % labels).to(target)
        logits = torch.randn(len(HITS), like.shape[1], generator=generator)
        shown = torch.tensor([label if hit else (label + 1) % labels for label, hit in zip(target.tolist(), HITS, strict=True)])
        top = logits.max(dim=1, keepdim=True).values + 0.3 + torch.arange(len(HITS))[:, None] / 5
        logits = logits.scatter(1, shown[:, None], top)
    logits = logits.to(like)
    return inputs, target, logits, lambda rows: exchanged(logits, logits)[rows]


def _evaluated(patient: Patient, inputs: Tensor, target: Tensor, logits: Tensor) -> tuple[Mapping[str, float], Place | None]:
    at, places = 0, []

    def answer(given: Tensor) -> Tensor:
        nonlocal at
        rows = logits[at : at + len(given)]
        at += len(given)
        places.append(caller())
        return rows

    with planted(patient.model, answer, is_plain=True):
        said = patient.evaluate(patient.model, loader(inputs, target, size=SIZES[0]), patient.loss) if patient.evaluate and patient.loss else {}
    if at not in (len(HITS), len(HITS) - SIZES[-1]):
        raise CannotTell(f"the evaluation asks for {at} answers about {len(HITS)} images")
    if not isinstance(said, Mapping):
        raise CannotTell(f"the evaluation returns a {type(said).__name__}, not its figures by name")
    return said, next(iter(places), None)


def _said(figures: Mapping[str, float], name: str) -> float | None:
    """The figure of that name, or of one that contains it."""
    for key in [key for key in figures if key == name] + [key for key in figures if name in key.lower()]:
        try:
            return float(figures[key])
        except (TypeError, ValueError):
            continue
    return None


def _losses(patient: Patient, outputs: Callable[[slice], Any], target: Tensor) -> list[list[float]]:
    """By image: the owner's criterion, and the plain one, in case the evaluation has its own."""
    found = []
    for criterion in (patient.loss, functional.cross_entropy):
        try:
            found.append([float(criterion(outputs(slice(i, i + 1)), target[i : i + 1]).sum()) for i in range(len(target))])  # type: ignore[misc]
        except (RuntimeError, ValueError, IndexError):
            continue
    return found


def _near(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=1e-7)


def _of_loss(
    patient: Patient, said: float, losses: Sequence[_Figures], outputs: Callable[[slice], Any], target: Tensor, place: Place | None,
) -> Iterator[Finding]:
    together = float(patient.loss(outputs(slice(None)), target).sum()) if patient.loss else math.nan  # of weighted losses the weighted mean
    total = sum(losses[0].values)
    if any(_near(said, figures.mean) for figures in losses) or (_near(said, together) and not _near(together, total)):
        return
    if patient.intent.reduction == "sum" and _near(said, total):
        return
    for figures in losses:
        for formula, value in figures.wrong().items():
            if _near(said, value):
                yield _finding("loss", formula, said, figures.mean, place)
                return
    yield _unexplained("loss", said, losses[0].mean, place)


def _of_accuracy(said: float, logits: Tensor, target: Tensor, place: Place | None) -> Iterator[Finding]:
    called = logits.argmax(dim=1)
    hits = _Figures([float(hit) for hit in (called == target).tolist()])
    recalls = [float((called[target == label] == label).float().mean()) for label in sorted(set(target.tolist()))]
    if any(_near(said, factor * value) for factor in (1, 100) for value in (hits.mean, sum(recalls) / len(recalls))):
        return
    for formula, value in (hits.wrong() | _other_axes(logits, target, hits)).items():
        if _near(said, value) or _near(said, 100 * value):
            yield _finding("accuracy", formula, said, hits.mean, place)
            return
    yield _unexplained("accuracy", said, hits.mean, place)


def _other_axes(logits: Tensor, target: Tensor, hits: _Figures) -> dict[str, float]:
    by_image = {}
    ends = [sum(SIZES[: number + 1]) for number in range(len(SIZES))]
    matched = 0.0
    for end, size in zip(ends, SIZES, strict=True):
        rows, wanted = logits[end - size : end], target[end - size : end]
        across = rows.argmax(dim=0)
        if len(across) == len(wanted) or len(across) == 1 or len(wanted) == 1:
            matched += float((across == wanted).sum())
    by_image["argmax over the images instead of the labels"] = matched / len(target)
    by_image["the share of wrong answers"] = 1 - hits.mean
    by_image["the least likely label instead of the most likely"] = float((logits.argmin(dim=1) == target).float().mean())
    return by_image


def _finding(name: str, formula: str, said: float, right: float, place: Place | None) -> Finding:
    return Finding(
        "L10", "error", f"The evaluation's {name} is {formula}", Culprit(f"evaluate: {name}", str(place) if place else None),
        (f"says {said:.6g}, the mean over the images is {right:.6g}, for batches of {', '.join(map(str, SIZES))} images with known answers",),
        "Add up over images, each batch's mean times its images, and divide by all images at the end.",
    )


def _unexplained(name: str, said: float, right: float, place: Place | None) -> Finding:
    return Finding(
        "L10", "warning", f"The evaluation's {name} is not the mean over the images", Culprit(f"evaluate: {name}", str(place) if place else None),
        (f"says {said:.6g}, the mean over the images is {right:.6g}, and no known formula fits",),
        "Give it another name if it is meant to be something else.",
    )


EXAMINATIONS = (metric_certificate,)
