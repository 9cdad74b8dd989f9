"""L10: the metric certificate. What an evaluation really reports, told from answers of which loss and hits are known.

Nine images in batches of 4, 4 and 1: of batches of unlike size no wrong mean is right by accident.
"""

import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from catdog.doctor.examination import CannotTell, examination
from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.loss.answers import ACTIVATIONS, plant
from catdog.doctor.loss.planting import kept_alive, loader, planted
from catdog.doctor.patient import ANY_ERROR, Patient
from catdog.doctor.source import Place, caller

SIZES = (4, 4, 1)
HITS = (True, True, True, False, False, True, False, False, True)
"""By image: 3 of 4, 1 of 4, 1 of 1. Of all 5 of 9; the mean over batches is 6 of 9."""
TOLERANCE = 1e-4
"""Relative: a sum of nine float32 in any order is nearer, and no two formulas are so near to each other."""


@dataclass(frozen=True, slots=True)
class _Figures:
    """A figure's mean over each batch."""

    means: Sequence[float]

    @property
    def mean(self) -> float:
        """Over the images: what is right."""
        return sum(mean * size for mean, size in zip(self.means, SIZES, strict=True)) / sum(SIZES)

    def wrong(self) -> dict[str, float]:
        """What other formulas make of them."""
        means, images, number = self.means, sum(SIZES), len(SIZES)
        sums = [mean * size for mean, size in zip(means, SIZES, strict=True)]
        return {
            "the sum of the batches' means, divided by the number of images": sum(means) / images,
            "the mean of the batches' means, in which a small last batch counts as much as a full one": sum(means) / number,
            "the sum of the batches' means, divided by nothing": sum(means),
            "the sum over the images, divided by the number of batches": sum(sums) / number,
            "the sum over the images, divided by nothing": sum(sums),
            "the sum over the images, divided by the batches times the size of a full one": sum(sums) / (number * SIZES[0]),
            "the sum of the batches' sums, each times its images once more": sum(map(operator.mul, sums, SIZES)) / images,
            "that of the last batch alone": means[-1],
            "the sum of the last batch, divided by the number of images": sums[-1] / images,
            "that of the first batch alone": means[0],
            "the mean without the last batch": sum(sums[:-1]) / (images - SIZES[-1]),
            "the sum without the last batch, divided by the number of images": sum(sums[:-1]) / images,
            "the sum of the batches' means times the size of a full batch, divided by the number of images": sum(means) * SIZES[0] / images,
            "the best batch's": max(means),
            "the worst batch's": min(means),
        }


@examination(
    "L10", "metric certificate", catches="a loss or accuracy of a split that is not the mean over its images",
    needs=("evaluate", "loss"), passes=1,
)
def metric_certificate(patient: Patient) -> Iterator[Finding]:
    """Let the owner's evaluation look at known answers: what it says is the mean over the images, or the formula is named that it fits."""
    inputs, target, logits = _known(patient)
    said, place = _evaluated(patient, inputs, target, logits)
    losses = _losses(patient, logits, target)
    loss, accuracy = _said(said, "loss"), _said(said, "acc")
    if loss is None and accuracy is None:
        raise CannotTell(f"the evaluation returns {', '.join(said) or 'nothing'}: no loss and no accuracy")
    if loss is not None and losses:
        yield from _of_loss(patient, loss, losses, logits, target, place)
    if accuracy is not None and logits.ndim == 2 and logits.shape[1] > 1:
        yield from _of_accuracy(accuracy, logits, target, place)


def _known(patient: Patient) -> tuple[Tensor, Tensor, Tensor]:
    """Nine images, their target, and their logits."""
    seen = plant(patient)
    like = seen.logits
    inputs, target = patient.batch
    if target.is_floating_point() or target.ndim != 1 or like.ndim > 2:
        raise CannotTell("the target is no label for each image")
    if not seen.is_plain:
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
    logits = ACTIVATIONS[seen.activation](logits.to(like))
    return inputs, target, logits


def _evaluated(patient: Patient, inputs: Tensor, target: Tensor, logits: Tensor) -> tuple[Mapping[str, float], Place | None]:
    at, places = 0, []

    def answer(given: Tensor) -> Tensor:
        nonlocal at
        rows = torch.arange(at, at + len(given)) % len(logits)
        at += len(given)
        places.append(caller())
        return kept_alive(patient.model, logits[rows.to(logits.device)])

    batches = loader(inputs, target, size=SIZES[0])
    try:
        with planted(patient.model, answer, is_plain=True):
            said = patient.evaluate(patient.model, batches, patient.loss) if patient.evaluate and patient.loss else {}
    except ANY_ERROR as error:
        raise CannotTell(f"the evaluation cannot be made of known answers: {type(error).__name__}: {error}"[:200]) from error
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


def _by_batch(values: Tensor) -> list[Tensor]:
    return list(torch.split(values, list(SIZES)))


def _losses(patient: Patient, logits: Tensor, target: Tensor) -> list[_Figures]:
    """By batch: the owner's criterion, and the plain one, in case the evaluation has its own."""
    found = []
    for criterion in (patient.loss, functional.cross_entropy):
        try:
            values = [criterion(*batch).sum() for batch in zip(_by_batch(logits), _by_batch(target), strict=True)]  # type: ignore[misc]
            single = [criterion(logits[i : i + 1], target[i : i + 1]).sum() for i in range(len(target))]  # type: ignore[misc]
        except (RuntimeError, ValueError, IndexError):
            continue
        is_sum = all(_near(float(value), float(sum(part))) for value, part in zip(values, _by_batch(torch.stack(single)), strict=True))
        found.append(_Figures([float(value) / (size if is_sum else 1) for value, size in zip(values, SIZES, strict=True)]))
    return found


def _near(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=1e-7)


def _of_loss(
    patient: Patient, said: float, losses: Sequence[_Figures], logits: Tensor, target: Tensor, place: Place | None,
) -> Iterator[Finding]:
    together = float(patient.loss(logits, target).sum()) if patient.loss else math.nan  # of losses weighted by label, the weighted mean
    is_mean = not _near(together, losses[0].mean * len(target))
    if any(_near(said, figures.mean) for figures in losses) or ((is_mean or patient.intent.reduction == "sum") and _near(said, together)):
        return
    for figures in losses:
        for formula, value in figures.wrong().items():
            if _near(said, value):
                yield _finding("loss", formula, said, figures.mean, place)
                return
    yield _unexplained("loss", said, losses[0].mean, place)


def _of_accuracy(said: float, logits: Tensor, target: Tensor, place: Place | None) -> Iterator[Finding]:
    called = logits.argmax(dim=1)
    hits = _Figures([float(part.float().mean()) for part in _by_batch(called == target)])
    recalls = [float((called[target == label] == label).float().mean()) for label in sorted(set(target.tolist()))]
    if any(_near(said, factor * value) for factor in (1, 100) for value in (hits.mean, sum(recalls) / len(recalls))):
        return
    for formula, value in (_other_axes(logits, target, hits) | hits.wrong()).items():
        if _near(said, value) or _near(said, 100 * value):
            yield _finding("accuracy", formula, said, hits.mean, place)
            return
    yield _unexplained("accuracy", said, hits.mean, place)


def _other_axes(logits: Tensor, target: Tensor, hits: _Figures) -> dict[str, float]:
    by_image = {}
    matched = 0.0
    for rows, wanted in zip(_by_batch(logits), _by_batch(target), strict=True):
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
        (f"says {said:.6g}, the mean over the images is {right:.6g}, for known answers in batches of {', '.join(map(str, SIZES))}",),
        "Add up over images, each batch's mean times its images, and divide by all images at the end.",
    )


def _unexplained(name: str, said: float, right: float, place: Place | None) -> Finding:
    return Finding(
        "L10", "warning", f"The evaluation's {name} is not the mean over the images",
        Culprit(f"evaluate: {name}", str(place) if place else None),
        (f"says {said:.6g}, the mean over the images is {right:.6g}, and no known formula fits",),
        "Give it another name if it is meant to be something else.",
    )


EXAMINATIONS = (metric_certificate,)
