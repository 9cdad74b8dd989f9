"""D09: whether the pictures say anything of their labels, and whether something else says more."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from catdog import shortcuts
from catdog.datasets import Record
from catdog.doctor.data.census import Entry, entries, glance, look, spread
from catdog.doctor.examination import CannotTell, Examination, examination
from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.patient import Patient

LOOKED_AT = 400
"""Pictures."""
FEWEST = 400
"""Pictures from which on silence says something."""
FOLDS = 5
PERMUTATIONS = 200
SILENT = 0.2
"""Share of the permutations of the labels that do as well: with a signal next to none does."""
_RINGS = np.hypot(*np.meshgrid(np.arange(-32, 32), np.arange(-32, 32))).astype(int).ravel()
AHEAD = 0.02
"""By how much a fact about the files must tell a label better than their pictures do."""


@examination("D09", "label signal", needs=("data",), catches="shuffled labels; labels that size, format or date give away")
def label_signal(patient: Patient) -> Iterator[Finding]:
    """Predict the labels from colours and textures by ridge regression, fold by fold, against the same with permuted labels."""
    labels = list(patient.data.labels) if patient.data is not None else []
    found = [entry for entry in entries(patient) if entry.split == "train" and entry.label in labels]
    found = [found[place] for place in spread(len(found), LOOKED_AT)]
    seen = [(entry, picture) for entry in found if (picture := glance(entry.path)) is not None]
    targets = np.array([labels.index(str(entry.label)) for entry, _ in seen])
    if len(seen) < 40 or len(set(targets.tolist())) < 2:
        raise CannotTell("too few pictures with a label")
    features = np.stack([_features(picture) for _, picture in seen])
    scores, chance = _signal(features, targets)
    if chance > SILENT and len(seen) >= FEWEST:
        yield Finding(
            "D09", "warning", "Colours and textures say nothing about the labels", Culprit("train"),
            (f"{chance:.0%} of {PERMUTATIONS} permutations of the labels are predicted as well, from {len(seen)} pictures",),
            "Look whether the labels belong to the pictures. Where only shapes tell them apart, all may be well.",
        )
    yield from _shortcuts([entry for entry, _ in seen], scores, targets, patient)


def _features(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Of (64, 64, 3): colours of an 8 x 8 thumbnail, histograms of the colours and of the edges, the spectrum."""
    values = picture.astype(np.float64) / 255
    small = values.reshape(8, 8, 8, 8, 3).mean(axis=(1, 3)).ravel()
    colours = [np.bincount(picture[..., channel].ravel() // 32, minlength=8) / picture[..., 0].size for channel in range(3)]
    grey = values.mean(axis=2)
    down, across = np.gradient(grey)
    angles, strength = np.arctan2(down, across) % np.pi, np.hypot(down, across)
    quarters = 16 * (np.arange(64) // 32)[:, None] + 8 * (np.arange(64) // 32)
    edges = np.bincount((quarters + (angles * (8 / np.pi)).astype(int).clip(0, 7)).ravel(), strength.ravel(), minlength=32) / 1024
    power = np.abs(np.fft.fftshift(np.fft.fft2(grey - grey.mean())))
    spectrum = np.log1p(np.bincount(_RINGS, power.ravel())[:32])
    return np.concatenate([small, *colours, edges, spectrum])


def _signal(features: NDArray[np.float64], targets: NDArray[np.int64]) -> tuple[NDArray[np.float64], float]:
    """Scores (N, labels) that were made without the picture's own fold, and the share of permutations that do as well."""
    generator = np.random.default_rng(0)
    labels = np.unique(targets)[:10]
    onehot = (targets[:, None] == labels).astype(np.float64)
    orders = [np.arange(len(targets)), *(generator.permutation(len(targets)) for _ in range(PERMUTATIONS))]
    wanted = np.concatenate([onehot[order] for order in orders], axis=1)
    scaled = (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-9)
    folds = generator.permutation(len(targets)) % FOLDS
    made = np.empty_like(wanted)
    for fold in range(FOLDS):
        own, rest = folds == fold, folds != fold
        mean = wanted[rest].mean(axis=0)
        gram = scaled[rest].T @ scaled[rest] + features.shape[1] * np.eye(features.shape[1])
        made[own] = scaled[own] @ np.linalg.solve(gram, scaled[rest].T @ (wanted[rest] - mean)) + mean
    centred, theirs = (values - values.mean(axis=0) for values in (made, wanted))
    fits = (centred * theirs).sum(axis=0) / np.maximum(1e-12, np.linalg.norm(centred, axis=0) * np.linalg.norm(theirs, axis=0))
    by_order = fits.reshape(len(orders), len(labels)).mean(axis=1)
    return made[:, : len(labels)], float((by_order[1:] >= by_order[0]).mean())


def _shortcuts(seen: Sequence[Entry], scores: NDArray[np.float64], targets: NDArray[np.int64], patient: Patient) -> Iterator[Finding]:
    known = (patient.data.records if patient.data is not None else None) or {}
    records = [known.get(entry.path) or _record(entry) for entry in seen]
    found = shortcuts.find(records)
    if not found:
        return
    labels = list(patient.data.labels)  # type: ignore[union-attr]
    present = np.unique(targets)[:10].tolist()
    best = found[0]
    place = labels.index(best.label)
    if place not in present:
        return
    by_picture = shortcuts.auc(scores[:, present.index(place)], targets == place)
    if best.auc > by_picture + AHEAD:
        yield Finding(
            "D09", "warning", f"The label {best.label} can be told by the {best.fact} alone", Culprit(best.fact),
            (f"AUC {best.auc:.3f}; colours and textures reach {by_picture:.3f}", f"of {len(seen)} files"),
            "A network may learn that and nothing else: mix the sources, or bring all files to one size and format.",
        )


def _record(entry: Entry) -> Record:
    seen = look(entry.path)
    return Record(
        hashlib.sha256(str(entry.path).encode()).hexdigest(), str(entry.path), str(entry.label), entry.split, seen.size[0] or 1,
        seen.size[1] or 1, seen.bytes, seen.format, seen.mode, seen.orientation, seen.modified, group="",
    )


EXAMINATIONS: tuple[Examination, ...] = (label_signal,)
