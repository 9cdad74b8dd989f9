"""summarise, page: what is in a data set, what was left out and why, and what to look at; for programs (JSON) and for people (HTML).

A finding has a code, a severity (error: no data set comes of it; warning: look at it; note: it was dealt with), a sentence, what to do,
and the names it is about. Names are strangers' text: the page escapes them and holds neither script nor outside address.
"""

import base64
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np

from catdog import datasets, images, shortcuts
from catdog.census import Census
from catdog.datasets import Record
from catdog.images import Preprocess
from catdog.plans import Plan
from catdog.splits import SPLITS
from catdog.templates import template

FORMAT = 1
MAX_IMBALANCE = 3.0
"""Pictures of the most frequent label to those of the rarest; above it training is told to balance."""
TYPICAL_SIDE = 224
"""Pixels: the size for which the geometry report is made; most networks see it."""
MIN_SURVIVES = 0.5
"""Share of a picture's area; where the median picture keeps less, another geometry is advised."""
LISTED = 200
"""Names of one kind that the page lists; report.json has them all."""
SHOWN = 8
"""Pictures of a label, or of a finding, that the page shows."""
_THUMBNAIL = (120, 120)
_KINDS = {
    "ambiguous": "more than one label in the name", "unlabelled": "no label", "not_a_picture": "no picture by the name",
    "unsupported": "pictures of a kind that is not read",
    "not_regular": "no regular file", "unreadable": "cannot be read", "duplicate": "the same file as another one",
    "leak": "shows what a picture of a later split shows",
}
_ADVICE = {
    "ambiguous": "Rename these files, put the pictures into one folder per label, or name them in a manifest.",
    "unlabelled": "Rename these files, put the pictures into one folder per label, or name them in a manifest.",
    "not_a_picture": "Nothing is to be done, unless they should be pictures: convert them to JPEG or PNG.",
    "unsupported": "Convert them to JPEG or PNG.",
    "not_regular": "Links out of the folder and devices are not followed; copy the files.",
    "unreadable": "Save or fetch these files again, or delete them.",
    "duplicate": "Nothing is to be done: each content counts once.",
    "leak": "Nothing is to be done: what is tested on is not trained on.",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know about the data."""

    code: str
    severity: str
    message: str
    advice: str
    names: list[str]


def summarise(census: Census, plan: Plan) -> dict[str, Any]:
    """report.json."""
    records = census.records
    return {
        "format": FORMAT, "verdict": "refused" if plan.problems or census.problems else "ready", "images": len(records),
        "labels": plan.labels, "counts": datasets.count(records, plan.labels), "ignored": plan.ignored,
        "findings": [asdict(finding) for finding in _findings(census, plan)],
        "refused": [asdict(one) for one in census.refused],
        "groups": [[_place(record) for record in group] for group in census.groups],
        "sizes": {name: _quantiles([getattr(record, name) for record in records]) for name in ("width", "height", "bytes")},
        "formats": _counts(record.format for record in records), "modes": _counts(record.mode for record in records),
        "orientations": _counts(str(record.orientation) for record in records),
        "survives": _survives(records),
    }


def page(summary: dict[str, Any], census: Census, read: Callable[[Record], bytes]) -> bytes:
    """report.html: one page that needs nothing else. `read` gives the bytes of a picture that is to be shown."""
    by_name = {record.name: record for record in census.records}
    kinds: dict[str, list[dict[str, str]]] = {}
    for one in summary["refused"]:
        kinds.setdefault(one["kind"], []).append(one)
    shown = {
        label: [_data_uri(read(record)) for record in [one for one in census.records if one.label == label][:SHOWN]]
        for label in summary["labels"][:20]
    }
    findings = [
        finding | {"pictures": [
            (name, _data_uri(read(by_name[name]))) for name in islice((name for name in finding["names"] if name in by_name), SHOWN)
        ]}
        for finding in summary["findings"]
    ]
    groups = [[(place, _data_uri(read(by_name[place["name"]]))) for place in group[:SHOWN]] for group in summary["groups"][:LISTED // 10]]
    text = template("report.html").render(
        summary=summary, findings=findings, shown=shown, kinds=kinds, groups=groups, listed=LISTED, splits=SPLITS,
        most=max(1, *(sum(counts.values()) for counts in _by_label(summary).values())), by_label=_by_label(summary),
    )
    return text.encode("utf-8", errors="xmlcharrefreplace")


def _findings(census: Census, plan: Plan) -> Iterator[Finding]:
    for problem in (*plan.problems, *census.problems):
        yield Finding("refused", "error", problem.message, problem.remedy, problem.offenders)
    by_kind: dict[str, list[str]] = {}
    for one in census.refused:
        by_kind.setdefault(one.kind, []).append(one.name)
    for kind, names in by_kind.items():
        severity = "note" if kind in ("not_a_picture", "duplicate") else "warning"
        yield Finding(kind, severity, f"{_number(names, 'file')} left out: {_KINDS[kind]}.", _ADVICE[kind], names)
    yield from _of_groups(census)
    yield from _of_balance(census.records, plan.labels)
    yield from _of_storage(census.records)
    yield from _of_geometry(census.records)
    for found in shortcuts.find(census.records):
        yield Finding(
            "shortcut", "warning", f"The label {found.label} can be told by the {found.fact} alone (AUC {found.auc:.2f}).",
            "A network may learn that and nothing else: mix the sources, or bring all pictures to one size, format and camera.", [],
        )


def _of_groups(census: Census) -> Iterator[Finding]:
    if census.groups:
        names = [record.name for group in census.groups for record in group]
        yield Finding(
            "near_duplicates", "note",
            f"{_number(names, 'picture')} show what another one of the same split shows ({_number(census.groups, 'group')}).",
            "Nothing is to be done: each group stands in one split.", names,
        )
    for group in census.conflicts:
        yield Finding(
            "conflict", "warning", "Pictures that show the same have different labels: "
            + ", ".join(f"{record.name} ({record.label})" for record in group) + ".",
            "Correct the labels.", [record.name for record in group],
        )
    if census.uniform:
        yield Finding(
            "uniform", "warning", f"Too uniform to tell whether they show what others show: {_number(census.uniform, 'picture')}.",
            "Look whether they show anything, and whether copies of one stand in two splits.", [record.name for record in census.uniform],
        )


def _of_balance(records: Sequence[Record], labels: Sequence[str]) -> Iterator[Finding]:
    counts = Counter(record.label for record in records)
    most, fewest = max(labels, key=lambda label: counts[label]), min(labels, key=lambda label: counts[label])
    if counts[most] > MAX_IMBALANCE * max(1, counts[fewest]):
        ratio = counts[most] / max(1, counts[fewest])
        yield Finding(
            "imbalance", "warning",
            f"Of {most} there are {counts[most]} pictures and of {fewest} {counts[fewest]}: {ratio:.1f} to 1.",
            f"Train with balance=sampler or balance=weighted and look at the balanced accuracy, or add pictures of {fewest}.", [],
        )


def _of_storage(records: Sequence[Record]) -> Iterator[Finding]:
    """Pictures that are stored in a way that other programs get wrong."""
    turned = [record.name for record in records if record.orientation != 1]
    if turned:
        yield Finding(
            "turned", "note", f"Stored turned or mirrored, and put upright by the EXIF orientation: {_number(turned, 'picture')}.",
            "Nothing is to be done: training and serving do the same.", turned,
        )
    for mode, names in sorted(_names_by(records, lambda record: record.mode).items()):
        if mode != "RGB":
            yield Finding(
                f"mode_{mode.lower().replace(';', '_')}", "note", f"Stored as {mode}, and made RGB: {_number(names, 'picture')}.",
                "Nothing is to be done: training and serving do the same.", names,
            )


def _of_geometry(records: Sequence[Record]) -> Iterator[Finding]:
    survives = _survives(records)
    if records and survives["resize_crop"]["median"] < MIN_SURVIVES:
        yield Finding(
            "geometry", "warning",
            f"geometry=resize_crop shows the network {survives['resize_crop']['median']:.0%} of the median picture.",
            "Where what matters is not in the middle, train with geometry=letterbox.", [],
        )
    small = [record.name for record in records if min(record.width, record.height) < TYPICAL_SIDE // 2]
    if len(small) > len(records) // 2:
        yield Finding(
            "small", "note", f"{len(small)} of {len(records)} pictures have a side below {TYPICAL_SIDE // 2} pixels.",
            "Train with a smaller image_size: nothing is gained by enlarging them.", small,
        )


def _survives(records: Sequence[Record]) -> dict[str, dict[str, float]]:
    """By geometry: the share of the area that the median and the worst tenth of the pictures keep, at TYPICAL_SIDE."""
    shares: dict[str, dict[str, float]] = {}
    for geometry in images.GEOMETRIES:
        preprocess = Preprocess(TYPICAL_SIDE, geometry=geometry)
        kept = [preprocess.survives(record.width, record.height) for record in records] or [1.0]
        shares[geometry] = {"median": round(float(np.median(kept)), 4), "tenth": round(float(np.quantile(kept, 0.1)), 4)}
    return shares


def _number(ones: Sequence[Any], noun: str) -> str:
    return f"{len(ones)} {noun}{'s' if len(ones) != 1 else ''}"


def _by_label(summary: dict[str, Any]) -> dict[str, dict[str, int]]:
    return {label: {split: summary["counts"][split][label] for split in SPLITS} for label in summary["labels"]}


def _quantiles(values: Sequence[int]) -> dict[str, float]:
    names = {"least": 0.0, "tenth": 0.1, "median": 0.5, "ninetieth": 0.9, "most": 1.0}
    return {name: float(np.quantile(values, share)) for name, share in names.items()} if values else {}


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _names_by(records: Sequence[Record], key: Callable[[Record], str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for record in records:
        found.setdefault(key(record), []).append(record.name)
    return found


def _place(record: Record) -> dict[str, str]:
    return {"name": record.name, "label": record.label, "split": record.split}


def _data_uri(data: bytes) -> str:
    image = images.decode(data)
    image.thumbnail(_THUMBNAIL)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
