"""S01: whether serving makes of a user's picture what validation makes of it; and if not, which single deviation explains it."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image, ImageOps
from torch import Tensor

from catdog.doctor.data.card import is_as_declared
from catdog.doctor.data.deviations import SMALL, explain, undone
from catdog.doctor.data.geometry import Frame, Prepare, channels_first, encoded, trace
from catdog.doctor.data.resampling import tried
from catdog.doctor.examination import CannotTell, Examination, examination
from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.patient import ANY_ERROR, Data, Patient
from catdog.doctor.serving.golden import Golden, golden
from catdog.doctor.serving.uploads import real, serving_of
from catdog.doctor.source import defined_at
from catdog.labels import listed

EQUAL = 1e-3
"""Of the range from black to white: what one library makes of one picture twice."""
REMEDY = "Serve with validation's transform."


@dataclass(frozen=True, slots=True)
class Pair:
    """What both sides make of one picture."""

    golden: Golden
    trained: Tensor
    served: Tensor
    normalise: tuple[Sequence[float], Sequence[float]] | None

    @property
    def off(self) -> tuple[float, float]:
        """The largest and the mean difference, of the range from black to white."""
        if self.trained.shape != self.served.shape:
            return 1.0, 1.0
        difference = (undone(self.trained, self.normalise) - undone_like(self.served, self.trained, self.normalise)).abs()
        return float(difference.max()), float(difference.mean())


def undone_like(values: Tensor, other: Tensor, normalise: tuple[Sequence[float], Sequence[float]] | None) -> Tensor:
    """Back to 0..1 as `other` is brought there: by the same scale."""
    if normalise is None:
        is_of_255 = not other.is_floating_point() or float(other.max()) > 1.5
        return values.double() / (255 if is_of_255 else 1)
    return undone(values, normalise)


@examination(
    "S01", "preprocessing parity", needs=("serving", "data"),
    catches="a user's picture that is decoded, resized, cropped or normalised otherwise than those of validation",
)
def preprocessing_parity(patient: Patient) -> Iterator[Finding]:
    """Push the golden pictures, and some of val, through both."""
    serving, data = serving_of(patient), patient.data
    if data is None or data.prepare is None:
        raise CannotTell("no prepare to compare with")
    pairs, refused = _pairs(patient, data.prepare, serving.prepare, data)
    places = [str(place) for place in map(defined_at, (serving.prepare, data.prepare)) if place]
    culprit = Culprit("serving.prepare", " / ".join(places) or None)
    if refused:
        is_plain = any(one.is_plain for one, _ in refused)
        yield Finding(
            "S01", "error" if is_plain else "warning", f"Serving refuses what training takes: {listed([one.name for one, _ in refused])}",
            culprit, tuple(f"{one.name}: {why}" for one, why in refused[:4]), "Decode on both sides by one function.",
        )
    plain = [pair for pair in pairs if pair.golden.is_plain]
    shapes = {(tuple(pair.trained.shape), tuple(pair.served.shape)) for pair in plain if pair.trained.shape != pair.served.shape}
    if shapes:
        trained, served = next(iter(shapes))
        yield Finding("S01", "error", f"Serving makes pictures of shape {served}, validation of {trained}", culprit, (), REMEDY)
    elif (far := [pair for pair in plain if pair.off[1] > SMALL]):
        yield _explained(data, serving.prepare, far, plain, culprit)
    else:
        near = [pair for pair in plain if pair.off[0] > EQUAL]
        if near:
            worst = max(near, key=lambda pair: pair.off[1])
            yield Finding(
                "S01", "warning", "Serving makes slightly other values of a picture than validation", culprit,
                (f"{worst.golden.name}: off by {worst.off[1]:.4f} of the range from black to white on average, {worst.off[0]:.3f} at most",
                 f"{len(near)} of {len(plain)} pictures"),
                "Two decoders or resizers differ so; it costs up to a point of accuracy (SysNoise, Yan et al. 2023): use one.",
            )
        yield from _of_odd(data.prepare, [pair for pair in pairs if not pair.golden.is_plain and pair.off[1] > SMALL], culprit)


def _pairs(
    patient: Patient, trained: Prepare, served: Prepare, data: Data,
) -> tuple[list[Pair], list[tuple[Golden, str]]]:
    pairs, refused = [], []
    for one in (*golden(), *real(patient)):
        try:
            mine = channels_first(trained(one.data))
        except ANY_ERROR:  # what training does not take needs no answer
            continue
        try:
            theirs = channels_first(served(one.data))
        except ANY_ERROR as error:  # whatever it refuses it with
            refused.append((one, f"{type(error).__name__}: {error}"[:200]))
            continue
        pairs.append(Pair(one, mine, theirs, data.normalise))
    return pairs, refused


def _explained(data: Data, served: Prepare, far: Sequence[Pair], plain: Sequence[Pair], culprit: Culprit) -> Finding:
    evidence = [
        f"{pair.golden.name}: off by {pair.off[1]:.3f} of the range from black to white on average" for pair in far[:3]
    ] + [f"{len(far)} of {len(plain)} pictures"]
    trained, made = [pair.trained for pair in plain], [pair.served for pair in plain]
    if not is_as_declared(data.prepare, data) and is_as_declared(served, data):  # type: ignore[arg-type]
        explanation = explain(made, trained, data.normalise)
        said = explanation.name if explanation is not None else "other values are made of a picture than declared"
        return Finding(
            "S01", "error", f"In validation, otherwise than in serving, {said}", culprit, tuple(evidence), "Mend validation's transform.",
        )
    explanation = explain(trained, made, data.normalise)
    name, left = (explanation.name, explanation.left) if explanation is not None else (None, 1.0)
    if name is None:
        name = _geometry(data.prepare, served)  # type: ignore[arg-type]
    if name is None:
        name, left = _filters(data.prepare, far)  # type: ignore[arg-type]
    if left < 1:
        evidence.append(f"explains {1 - left:.0%} of it")
    if name is None:
        name = "other values are made of a picture, and no single known deviation explains them"
    return Finding("S01", "error", f"In serving, otherwise than in validation, {name}", culprit, tuple(evidence), REMEDY)


def _geometry(trained: Prepare, served: Prepare) -> str | None:
    """What differs in what part of a picture is seen."""
    mine, theirs = (trace(prepare, 360, 240) for prepare in (trained, served))
    if mine is None or theirs is None:
        return None
    if max(abs(one - other) for one, other in zip(mine.box, theirs.box, strict=True)) < 0.01 and mine.shown.all() == theirs.shown.all():
        return None
    return f"a picture is {_said(theirs)}; validation's is {_said(mine)}"


def _said(frame: Frame) -> str:
    across, down = frame.scales
    if not frame.shown.all() and frame.kept > 0.99:
        return "letterboxed"
    if abs(across / down - 1) > 0.05:
        return f"stretched to a square, of which {frame.kept:.0%} are kept" if frame.kept < 0.99 else "stretched to a square"
    return f"cropped to {frame.kept:.0%} of its area, at {across:.2f} of its size"


def _filters(trained: Prepare, far: Sequence[Pair]) -> tuple[str | None, float]:
    """Which filter resizes on which side, and how much of the difference that leaves."""
    sums: list[dict[str, float]] = [{}, {}]
    whole = 0.0
    for pair in far[:4]:
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(pair.golden.data))).convert("RGB")
        frame = trace(trained, *image.size)
        if frame is None or not frame.shown.all() or frame.orientation != "upright":
            return None, 1.0
        whole += pair.off[1]
        for name, made in tried(image, frame).items():
            for total, values in zip(sums, (pair.trained, pair.served), strict=True):
                if made.shape == values.shape:
                    difference = (made - undone_like(values, pair.trained, pair.normalise)).abs().mean()
                    total[name] = total.get(name, 0.0) + float(difference)
    if not sums[0] or not sums[1]:
        return None, 1.0
    mine, theirs = (min(total, key=total.__getitem__) for total in sums)
    left = max(sums[0][mine], sums[1][theirs]) / max(whole, 1e-9)
    return (f"a picture is resized {theirs}; validation's is resized {mine}", left) if mine != theirs and left < 0.5 else (None, 1.0)


def _of_odd(trained: Prepare, pairs: Sequence[Pair], culprit: Culprit) -> Iterator[Finding]:
    """Pictures that are stored in an unusual way."""
    by_name: dict[str, list[Pair]] = {}
    for pair in pairs:
        by_name.setdefault(_misread(pair, trained) or f"{pair.golden.name} is read otherwise", []).append(pair)
    for name, own in by_name.items():
        yield Finding(
            "S01", "error" if any(pair.golden.is_common for pair in own) else "warning",
            f"In serving, otherwise than in validation, {name}", culprit,
            tuple(f"{pair.golden.name}: off by {pair.off[1]:.3f} of the range from black to white on average" for pair in own[:4]),
            "Decode on both sides by one function.",
        )


def _misread(pair: Pair, trained: Prepare) -> str | None:
    """What serving does with a picture, or validation, whichever of them is known."""
    for is_served, values in ((True, pair.served), (False, pair.trained)):
        for name, reading in pair.golden.readings.items():
            try:
                made = channels_first(trained(encoded(reading(Image.open(io.BytesIO(pair.golden.data))))))
            except ANY_ERROR:  # it cannot be read so
                continue
            if made.shape == values.shape and Pair(pair.golden, made, values, pair.normalise).off[1] < 0.1 * pair.off[1]:
                return name if is_served else f"a picture is read so that not, as in validation, {name}"
    return None


EXAMINATIONS: tuple[Examination, ...] = (preprocessing_parity,)
