"""D01, D05: files that cannot be read, and those whose pixels mean something else than their bytes say at first sight."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from catdog.doctor.data.census import Entry, Look, census, entries, sampled
from catdog.doctor.data.draws import seeded
from catdog.doctor.data.geometry import channels_first, encoded, is_flat
from catdog.doctor.examination import CannotTell, Examination, examination
from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.patient import ANY_ERROR, Data, DataSplit, Patient
from catdog.doctor.source import Place, defined_at
from catdog.labels import listed

MOST_UNREADABLE = 0.2
"""Share of the files; with more of them something is wrong with the set. catdog.census refuses a label at the same share."""
ASKED = 8
"""Broken or oddly stored files that the owner's data set is asked for."""
USUAL = ("RGB", "RGBA", "L", "LA", "P", "1")
"""Pillow's names of how pixels are stored that every reader knows."""
TURNED = 16
"""Files with an EXIF orientation that are compared."""
SHOWN_TURNED = 0.02
"""Share of the files from which on pictures that lie on their side are worth a warning."""
_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), "PNG": (".png", ".apng"), "GIF": (".gif",), "WEBP": (".webp",),
    "BMP": (".bmp", ".dib"),
}


def looked_at(patient: Patient) -> list[tuple[Entry, Look]]:
    """The files that are not known already, and what they are."""
    if "looks" not in patient.known:
        known = patient.data.records if patient.data is not None and patient.data.records is not None else {}
        chosen = sampled([entry for entry in entries(patient) if entry.path not in known])
        patient.known["looks"] = list(zip(chosen, census(chosen), strict=True))
    found: list[tuple[Entry, Look]] = patient.known["looks"]
    return found


@examination(
    "D01", "decode census", needs=("data",), catches="files that cannot be read, and data sets that put something else in their place",
)
def decode_census(patient: Patient) -> Iterator[Finding]:
    """Read every file."""
    looks = looked_at(patient)
    broken = [(entry, look) for entry, look in looks if look.error]
    share = len(broken) / max(1, len(looks))
    silent = [found for entry, _ in broken[:ASKED] if (found := _instead(patient, entry)) is not None]
    evidence = [
        f"{len(broken)} of {len(looks)} files that were looked at cannot be read",
        *(f"{entry.path}: {look.error}" for entry, look in broken[:5]),
    ]
    if silent:
        entry, what, place = silent[0]
        yield Finding(
            "D01", "error", f"For a file that cannot be read the data set silently gives {what}, with the label of the file",
            Culprit(str(entry.path), str(place) if place else None),
            (*evidence, f"so for {len(silent)} of the {min(ASKED, len(broken))} that it was asked for"),
            "Leave broken files out of the list; let __getitem__ raise.",
        )
    elif share > MOST_UNREADABLE:
        yield Finding(
            "D01", "error", f"{share:.0%} of the files cannot be read", Culprit(str(broken[0][0].path)), tuple(evidence),
            "Fetch or unpack the set again.",
        )
    elif broken:
        yield Finding(
            "D01", "warning", f"{len(broken)} files cannot be read", Culprit(listed([str(entry.path) for entry, _ in broken])),
            tuple(evidence), "Save them again, or leave them out.",
        )
    yield from _of_suffixes(looks)
    yield from _of_modes(patient, looks)


def _instead(patient: Patient, entry: Entry) -> tuple[Entry, str, Place | None] | None:
    """What a data set gives in place of a broken file: a constant, or another's picture under this one's label."""
    split = patient.data.splits[entry.split]  # type: ignore[union-attr]
    place: list[Place] = []
    try:
        with _Swallowed(place.append):
            inputs, target = _taken(split, entry.position)
    except ANY_ERROR:  # whatever it raises: it is not silent
        return None
    where = place[-1] if place else None
    if not where and patient.data is not None and patient.data.prepare is None:
        return None  # nothing failed: its owner reads more kinds of files than we do
    if is_flat(inputs):
        return entry, "a picture of one value all over", where
    number = len(split.paths)
    near = (entry.position + 1, entry.position - 1, 0, -1, *range(0, number, max(1, number // 16)))
    for other in dict.fromkeys(position % number for position in near):
        if other == entry.position:
            continue
        try:
            theirs, label = _taken(split, other)
        except ANY_ERROR:
            continue
        if theirs.shape == inputs.shape and torch.equal(theirs, inputs):
            is_honest = str(label) == str(target) and entry.label is not None and _label_of(patient.data, split.paths[other]) != entry.label
            return None if is_honest else (entry, f"the picture of {split.paths[other].name}", where)
    return None


def _taken(split: DataSplit, position: int) -> tuple[Tensor, Any]:
    with seeded(0):
        inputs, target = split.items[position][:2]
    return torch.as_tensor(inputs), target


def _label_of(data: Data | None, path: Path) -> str | None:
    found = data.labels_in(path) if data is not None else ()
    return found[0] if len(found) == 1 else None


class _Swallowed:
    """Watches for the line at which an exception ends: tells the place, of code that is no library."""

    def __init__(self, tell: Callable[[Place], None]) -> None:
        self._tell = tell
        self._before: Any = None

    def __enter__(self) -> None:
        self._before = sys.gettrace()
        sys.settrace(self._enter)

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _enter(self, frame: FrameType, _event: str, _: Any) -> Any:
        place = Place(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
        if place.is_library or "/lib/python" in place.file or place.file.startswith("<"):
            return None
        return self._inside

    def _inside(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "exception" and not issubclass(argument[0], (StopIteration, GeneratorExit)):
            self._tell(Place(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        return self._inside


def _of_suffixes(looks: Sequence[tuple[Entry, Look]]) -> Iterator[Finding]:
    odd = [
        (entry, look) for entry, look in looks
        if look.format in _SUFFIXES and entry.path.suffix and entry.path.suffix.lower() not in _SUFFIXES[look.format]
    ]
    if odd:
        entry, look = odd[0]
        yield Finding(
            "D01", "info", f"{len(odd)} files are of another kind than their name says", Culprit(listed([str(one.path) for one, _ in odd])),
            (f"{entry.path.name} is a {look.format}",), "Nothing is to be done where the reader goes by the content.",
        )


def _of_modes(patient: Patient, looks: Sequence[tuple[Entry, Look]]) -> Iterator[Finding]:
    """Files that are stored in an unusual way: whether anything is left of them."""
    odd = [(entry, look) for entry, look in looks if not look.error and (look.mode not in USUAL or look.frames > 1)]
    if not odd:
        return
    counts = Counter(look.mode if look.frames == 1 else f"{look.mode} with several frames" for _, look in odd)
    lost = [entry for entry, look in odd[:: max(1, len(odd) // ASKED)] if _is_lost(patient, entry, look)]
    said = ", ".join(f"{number} {mode}" for mode, number in counts.most_common())
    if lost:
        yield Finding(
            "D01", "error" if len(odd) > MOST_UNREADABLE * len(looks) else "warning",
            "Of oddly stored files nothing is left but one value all over", Culprit(listed([str(entry.path) for entry in lost])),
            (f"{said} of {len(looks)} files",), "16-bit grey has to be divided by 257 before it is made RGB.",
        )
    else:
        yield Finding(
            "D01", "info", f"Oddly stored files: {said}", Culprit(listed([str(entry.path) for entry, _ in odd])),
            (f"of {len(looks)} files",), "Nothing is to be done if they look as they should.",
        )


def _is_lost(patient: Patient, entry: Entry, look: Look) -> bool:
    prepare = patient.data.prepare if patient.data is not None else None
    if prepare is None or look.glance is None or look.glance.std() < 5:
        return False
    try:
        return is_flat(prepare(entry.path.read_bytes()))
    except ANY_ERROR:  # it refuses the file, and says so
        return False


@examination(
    "D05", "EXIF orientation", needs=("data",), catches="pictures of phones that lie on their side, or do so on one side only",
)
def exif_orientation(patient: Patient) -> Iterator[Finding]:
    """Compare what is made of turned files with what is made of the same pictures upright and as they are stored."""
    data = patient.data
    if data is None or data.prepare is None:
        raise CannotTell("no prepare")
    turned = _turned(patient, data)
    if not turned:
        return
    votes: dict[str, list[str]] = {"validation": [], "training": []}
    chosen = turned[:: -(-len(turned) // TURNED)]
    for entry in chosen:
        stored, upright = _both(entry.path)
        made = [channels_first(data.prepare(encoded(picture))).double() for picture in (stored, upright)]
        votes["validation"].append(_nearest(channels_first(data.prepare(entry.path.read_bytes())).double(), made))
        if entry.split == "train":
            votes["training"].append(_alike(data.splits["train"], entry.position, made))
    said = {side: _verdict(own) for side, own in votes.items()}
    place = defined_at(data.prepare)
    evidence = (
        f"{len(turned)} files have an orientation other than 1, {len(chosen)} were compared: "
        + ", ".join(f"{side} {dict(Counter(own))}" for side, own in votes.items() if own),
    )
    culprit = Culprit(listed([str(entry.path) for entry in turned]), str(place) if place else None)
    if {said["validation"], said["training"]} == {"stored", "upright"}:
        wrong = next(side for side, verdict in said.items() if verdict == "stored")
        yield Finding(
            "D05", "error", f"The EXIF orientation is applied everywhere but in {wrong}", culprit, evidence,
            "Apply ImageOps.exif_transpose on both sides.",
        )
    elif "stored" in said.values() and len(turned) >= SHOWN_TURNED * len(entries(patient)):
        yield Finding(
            "D05", "warning", f"{len(turned)} pictures lie on their side: the EXIF orientation is not applied", culprit, evidence,
            "Apply ImageOps.exif_transpose behind Image.open, in training and in serving.",
        )


def _turned(patient: Patient, data: Data) -> list[Entry]:
    known = data.records or {}
    found = [entry for entry in entries(patient) if entry.path in known and known[entry.path].orientation != 1]
    return found + [entry for entry, look in looked_at(patient) if not look.error and look.orientation in range(2, 9)]


def _both(path: Path) -> tuple[Image.Image, Image.Image]:
    """As it is stored, and upright; without the tag."""
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
        return Image.fromarray(np.asarray(image.convert("RGB"))), Image.fromarray(np.asarray(upright))


def _nearest(values: Tensor, made: Sequence[Tensor]) -> str:
    """Which of (stored, upright) is nearer by far."""
    stored, upright = (float((values - one).abs().mean()) if one.shape == values.shape else float("inf") for one in made)
    if min(stored, upright) > 0.3 * max(stored, upright):
        return "neither"
    return "stored" if stored < upright else "upright"


def _alike(split: DataSplit, position: int, made: Sequence[Tensor]) -> str:
    """The same of an augmented item, which may be mirrored: by correlation, over four looks."""
    scores = [[0.0, 0.0]]
    for _ in range(4):
        try:
            values = channels_first(torch.as_tensor(split.items[position][0])).double()
        except ANY_ERROR:
            return "neither"
        scores.append([max(correlation(values, one), correlation(values, one.flip(-1))) for one in made])
    stored, upright = np.array(scores[1:]).mean(axis=0)
    if abs(stored - upright) < 0.15:
        return "neither"
    return "stored" if stored > upright else "upright"


def correlation(one: Tensor, other: Tensor) -> float:
    """Of two pictures (C, H, W), made small."""
    small = [torch.nn.functional.adaptive_avg_pool2d(values, 16).flatten() for values in (one, other)]
    if len(small[0]) != len(small[1]):
        return 0.0
    centred = [values - values.mean() for values in small]
    scale = float(centred[0].norm() * centred[1].norm())
    return float(centred[0] @ centred[1]) / scale if scale > 1e-12 else 0.0


def _verdict(votes: Sequence[str]) -> str:
    """What at least three decided files say, without one that says otherwise."""
    decided = [vote for vote in votes if vote != "neither"]
    return decided[0] if len(decided) >= 3 and len(set(decided)) == 1 else "neither"


EXAMINATIONS: tuple[Examination, ...] = (decode_census, exif_orientation)
