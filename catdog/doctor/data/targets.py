"""D02, D04, D08: whether each picture has the label that is meant, and each label its pictures."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from catdog.doctor.data.census import Entry, entries, spread
from catdog.doctor.data.deviations import SMALL, explain
from catdog.doctor.data.draws import Draw, drawn
from catdog.doctor.data.files import correlation
from catdog.doctor.data.geometry import channels_first
from catdog.doctor.examination import CannotTell, Examination, examination
from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.patient import ANY_ERROR, Data, DataSplit, Patient
from catdog.labels import labels_in, listed

UNLIKELY = 1e-4
"""Chance of a draw as uneven as this one; one of 10,000 fair draws is worse."""
MOST_UNEVEN = 20.0
"""Pictures of the commonest label for one of the rarest."""
FEWEST = 2
"""Pictures of a label in val, as catdog.splits asks for."""
MANY_LABELS = 20
"""Labels; with more of them a split of a few hundred pictures may lack some."""
COMPARED = 12
"""Items of a split whose pixels are compared with what `prepare` makes of their files."""
KNOWN = 64
"""Files among which the one is looked for that an item really shows."""


@examination("D02", "label source ambiguity", needs=("data",), catches="file names that say no label, or two of them")
def label_source(patient: Patient) -> Iterator[Finding]:
    """Read every path by the declared rule, and by words."""
    data = _data(patient)
    found = entries(patient)
    unclear = [entry for entry in found if len(set(entry.labels)) != 1]
    none = [entry for entry in unclear if not entry.labels]
    if found and len(none) == len(found):
        raise CannotTell("the declared rule reads no label out of any path")
    ambiguous = [entry for entry in unclear if entry not in none and not _said_by_words(data, entry)]
    for what, own in (("more than one label", ambiguous), ("no label", none)):
        if not own:
            continue
        differing = sum(_last(entry) != entry.labels[0] for entry in own if entry.labels)
        shown = [f"{entry.path}: {', '.join(entry.labels) or 'no label'}{_used(data, entry)}" for entry in own[:6]]
        yield Finding(
            "D02", "error", f"{len(own)} files whose name says {what} are trained or tested on",
            Culprit(listed([str(entry.path) for entry in own])),
            (*shown, *([f"{differing} of them would have another label if the last match counted and not the first"] if differing else [])),
            "Rename them, put them into one folder for each label, or leave them out.",
        )


def _said_by_words(data: Data, entry: Entry) -> bool:
    """Whether only one label stands in the name as a word, and the data set takes it for that: cat in caterpillar.3.jpg is no word."""
    words = labels_in(entry.path.name, data.labels)
    if len(words) != 1 or words[0] not in entry.labels:
        return False
    label = _target(data, entry)
    return label is not None and label == list(data.labels).index(words[0])


def _target(data: Data, entry: Entry) -> int | None:
    try:
        return Draw(entry.split, entry.position, torch.empty(0), data.splits[entry.split].items[entry.position][1]).label
    except ANY_ERROR:  # D01 says what cannot be read
        return None


def _used(data: Data, entry: Entry) -> str:
    label = _target(data, entry)
    return f", used as {data.labels[label]}" if label is not None and 0 <= label < len(data.labels) else ""


def _last(entry: Entry) -> str:
    """The label that stands last in the name."""
    name = entry.path.name.casefold()
    return max(entry.labels, key=lambda label: name.rfind(label.casefold()))


@examination("D04", "class balance", needs=("data",), catches="labels without pictures, unlucky draws, unequal numbers that nobody answers")
def class_balance(patient: Patient) -> Iterator[Finding]:
    """Count the pictures of each label in each split."""
    data = _data(patient)
    counts = {name: Counter(dict.fromkeys(data.labels, 0)) for name in data.splits}
    for entry in entries(patient):
        if entry.label in data.labels:
            counts[entry.split][str(entry.label)] += 1
    if not any(sum(own.values()) for own in counts.values()):
        raise CannotTell("the declared rule reads no label out of any path")
    yield from _missing(counts)
    if data.balance == "natural":
        yield from _uneven(counts, data)
    yield from _weights(patient, counts.get("train", Counter()))


def _missing(counts: Mapping[str, Counter[str]]) -> Iterator[Finding]:
    for split, least in (("train", 1), ("val", FEWEST)):
        own = counts.get(split)
        if own is None:
            continue
        lacking = [label for label, number in own.items() if number < least]
        absent = [label for label in lacking if not own[label]]
        if lacking:
            few = len(own) > MANY_LABELS and (not absent or sum(own.values()) < 5 * len(own)) and split == "val"
            yield Finding(
                "D04", "warning" if few else "error",
                f"{split} has {'no picture' if absent else 'less than two pictures'} of {listed(absent or lacking)}",
                Culprit(listed(absent or lacking)), (_shown(own),), "Add pictures of it, or draw the splits anew, label by label.",
            )


def _uneven(counts: Mapping[str, Counter[str]], data: Data) -> Iterator[Finding]:
    train = counts.get("train", Counter())
    most, fewest = (pick(train, key=lambda label: train[label], default="") for pick in (max, min))
    unlikely = [(split, expected, chance) for split, expected, chance in _draws(counts, data) if chance < UNLIKELY]
    for split, expected, chance in unlikely[:1]:
        rarest = min(expected, key=lambda label: counts[split][label] / max(1e-9, expected[label]))
        yield Finding(
            "D04", "warning", f"{split} is an unlucky draw: {counts[split][rarest]} pictures of {rarest} instead of {expected[rarest]:.0f}",
            Culprit(rarest),
            (f"{split}: {_shown(counts[split])}", f"a fair draw is as uneven with a chance of {chance:.1g}"),
            "Draw label by label, or say what is done against it: balance=weighted, sampler or downsample.",
        )
    if not unlikely and most and train[fewest] and train[most] > MOST_UNEVEN * train[fewest]:
        yield Finding(
            "D04", "warning", f"train has {train[most] / train[fewest]:.0f} pictures of {most} for one of {fewest}, and nothing answers it",
            Culprit(fewest), (_shown(train),), "Weight the loss, sample evenly, or look at the balanced accuracy.",
        )


def _draws(counts: Mapping[str, Counter[str]], data: Data) -> Iterator[tuple[str, dict[str, float], float]]:
    """Each split, what a fair draw of it would have, and the chance of one as uneven; of train against val where no more is known."""
    for split, own in counts.items():
        whole = Counter(data.population) if data.population is not None else counts.get("val", Counter()) if split == "train" else Counter()
        number = sum(own.values())
        if not number or not sum(whole[label] for label in own):
            continue
        expected = {label: number * whole[label] / sum(whole[label] for label in own) for label in own}
        yield split, expected, _chance(own, whole, is_part=data.population is not None)


def _chance(own: Counter[str], whole: Counter[str], *, is_part: bool) -> float:
    """Of a table as uneven: own against the rest of the whole, or against another sample."""
    labels = [label for label in own if whole[label]]
    rest = [whole[label] - own[label] if is_part else whole[label] for label in labels]
    table = np.array([[own[label] for label in labels], rest])
    if table.min() < 0 or len(labels) < 2 or table.sum(axis=1).min() == 0:
        return 1.0
    if len(labels) == 2:
        return float(stats.fisher_exact(table).pvalue)
    return float(stats.chi2_contingency(table[:, table.sum(axis=0) > 0]).pvalue)


def _weights(patient: Patient, train: Counter[str]) -> Iterator[Finding]:
    """Weights that make the common commoner, or none where some are declared."""
    data, weights = _data(patient), patient.intent.label_weights
    own = getattr(patient.loss, "weight", None) if isinstance(patient.loss, (nn.CrossEntropyLoss, nn.NLLLoss)) else None
    if weights is None and isinstance(own, Tensor):
        weights = tuple(own.tolist())
    numbers = [train[label] for label in data.labels]
    if weights is not None and len(weights) == len(numbers) and len(set(weights)) > 1 and max(numbers) > 1.5 * max(1, min(numbers)):
        if float(np.corrcoef(numbers, weights)[0, 1]) > 0:
            yield Finding(
                "D04", "warning", "The common labels weigh more than the rare ones: the weights are upside down", Culprit("label_weights"),
                (f"weights {tuple(round(weight, 3) for weight in weights)}", _shown(train)), "Weight by the inverse of the number.",
            )
    elif weights is None and data.balance == "weighted" and isinstance(patient.loss, (nn.CrossEntropyLoss, nn.NLLLoss)):
        yield Finding(
            "D04", "warning", "Weights against unequal numbers are declared, and the loss has none", Culprit(type(patient.loss).__name__),
            (_shown(train),), "Give the loss weight=....",
        )


def _shown(counts: Counter[str]) -> str:
    return ", ".join(f"{label}: {number}" for label, number in counts.most_common(10))


@examination(
    "D08", "label integrity", needs=("data",), catches="labels out of range, labels and pictures sorted apart, labels that differ by split",
)
def label_integrity(patient: Patient) -> Iterator[Finding]:
    """Compare what the data set gives with what the files say."""
    data = _data(patient)
    yield from _of_batch(patient)
    read_any = False
    for name in data.splits:
        draws = drawn(patient, name)
        outside = [draw for draw in draws if draw.label is not None and not 0 <= draw.label < len(data.labels)]
        if outside:
            yield Finding(
                "D08", "error", f"{name} has the label {outside[0].label}, and there are {len(data.labels)}",
                Culprit(str(data.splits[name].paths[outside[0].position])), (f"{len(outside)} of {len(draws)} items looked at",),
                "Count the labels from 0.",
            )
        given = [(draw, label) for draw in draws if draw not in outside and (label := _rule(data, draw)) is not None]
        read_any = read_any or bool(given)
        wrong = [(draw, label) for draw, label in given if draw.label is not None and draw.label != label]
        if wrong:
            yield _mislabelled(data, name, [(draw.label, label) for draw, label in given], wrong)
        yield from _of_pixels(data, name, draws)
    if not read_any and data.splits:
        raise CannotTell("the declared rule reads no label out of any path, so that none can be compared")


def _of_batch(patient: Patient) -> Iterator[Finding]:
    target, labels = patient.batch[1], len(_data(patient).labels)
    if target.is_floating_point():
        if target.ndim == 2 and target.shape[1] == labels and labels > 1:
            sums = target.double().sum(dim=1)
            if bool((target < -1e-6).any()) or (float((sums - 1).abs().max()) > 1e-3 and not bool(((target == 0) | (target == 1)).all())):
                yield Finding(
                    "D08", "warning", "The targets of the batch are no shares that add up to 1", Culprit("target"),
                    (f"sums from {float(sums.min()):.3f} to {float(sums.max()):.3f}",), "Divide mixed targets by their sum.",
                )
        return
    ignored = {-100, patient.intent.ignore_index}  # -100: what torch ignores where nothing else is said
    outside = sorted({value for value in target.flatten().tolist() if value not in ignored and not 0 <= value < max(labels, 2)})
    if outside:
        yield Finding(
            "D08", "error", f"The batch has the target {outside[0]}, and there are {labels} labels", Culprit("target"),
            (f"{target.dtype}, from {int(target.min())} to {int(target.max())}",), "Count the labels from 0.",
        )


def _rule(data: Data, draw: Draw) -> int | None:
    found = set(data.labels_in(data.splits[draw.split].paths[draw.position]))
    (label,) = found if len(found) == 1 else (None,)
    return list(data.labels).index(label) if label is not None and label in data.labels else None


def _mislabelled(
    data: Data, name: str, pairs: Sequence[tuple[int | None, int]], wrong: Sequence[tuple[Draw, int]],
) -> Finding:
    draw, _ = wrong[0]
    path = data.splits[name].paths[draw.position]
    shown = [
        f"item {one.position}, {data.splits[name].paths[one.position].name}: given {_named(data, one.label)}, named {_named(data, derived)}"
        for one, derived in wrong[:5]
    ]
    mapping: dict[int, set[int]] = {}
    for given, derived in pairs:
        if given is not None:
            mapping.setdefault(derived, set()).add(given)
    if len(wrong) > 1 and len(mapping) > 1 and all(len(given) == 1 for given in mapping.values()):
        order = {_named(data, derived): _named(data, next(iter(given))) for derived, given in sorted(mapping.items())}
        message, remedy = f"The labels of {name} are numbered in another order", "Number the labels once, in one order for every split."
        shown.insert(0, ", ".join(f"{derived} is given as {given}" for derived, given in order.items()))
    elif len(wrong) > 0.1 * len(pairs):
        message, remedy = f"The labels and the files of {name} are in different orders", "Make both of one list; os.listdir has no order."
    else:
        message, remedy = f"Files of {name} have another label than their name says", "Correct the labels."
    return Finding(
        "D08", "error", message, Culprit(f"{name}: {path}"), (f"{len(wrong)} of {len(pairs)} items looked at", *shown), remedy,
    )


def _named(data: Data, label: int | None) -> str:
    return str(data.labels[label]) if label is not None and 0 <= label < len(data.labels) else str(label)


def _of_pixels(data: Data, name: str, draws: Sequence[Draw]) -> Iterator[Finding]:
    """Whether an item shows its file: exactly where nothing is random, else by likeness."""
    if data.prepare is None or not draws:
        return
    some = [draws[place] for place in spread(len(draws), COMPARED)]
    made = _made(data, name, some)
    some = [draw for draw in some if draw.position in made]
    is_random = name == "train" and data.augmented
    likeness, sure, own = (_likeness, 0.9, 0.6) if is_random else (_equality, 0.999, 0.999)
    unlike = [draw for draw in some if likeness(channels_first(draw.inputs).double(), made[draw.position].double()) < own]
    if len(unlike) >= 2:
        made |= _made(data, name, [draws[place] for place in spread(len(draws), KNOWN)])
    apart = [(draw, other) for draw in unlike if (other := _elsewhere(draw, made, likeness, sure=sure)) is not None]
    if is_random:
        apart = [(draw, other) for draw, other in apart if _again(data.splits[name], draw, other, made)]
    if len(apart) >= max(2, 0.25 * len(some)):
        draw, other = apart[0]
        paths = data.splits[name].paths
        yield Finding(
            "D08", "error", f"The pictures and the files of {name} are in different orders", Culprit(f"{name}: {paths[draw.position]}"),
            (f"item {draw.position} is {paths[draw.position].name}, and shows {paths[other].name}",
             f"{len(apart)} of {len(some)} items looked at show another file than theirs"),
            "Make pictures and labels of one sorted list; os.listdir has no order.",
        )
    elif name != "train" and some:
        yield from _otherwise(data, name, some, made)


def _made(data: Data, name: str, draws: Sequence[Draw]) -> dict[int, Tensor]:
    """By position: what `prepare` makes of the file of an item."""
    made: dict[int, Tensor] = {}
    for draw in draws:
        try:
            made[draw.position] = channels_first(data.prepare(data.splits[name].paths[draw.position].read_bytes()))  # type: ignore[misc]
        except ANY_ERROR:  # a file that cannot be read is D01's
            continue
    return made


def _elsewhere(draw: Draw, made: Mapping[int, Tensor], likeness: Callable[[Tensor, Tensor], float], *, sure: float) -> int | None:
    """The position of the file that an item surely shows, where it is not its own."""
    values = channels_first(draw.inputs).double()
    best, position = max((likeness(values, one.double()), other) for other, one in made.items())
    return position if best >= sure and position != draw.position else None


def _again(split: DataSplit, draw: Draw, other: int, made: Mapping[int, Tensor]) -> bool:
    """The second witness of a random item: three more looks at it show the same other file, and none its own."""
    for _ in range(3):
        values = channels_first(torch.as_tensor(split.items[draw.position][0])).double()
        if _likeness(values, made[draw.position].double()) >= 0.6 or _likeness(values, made[other].double()) < 0.9:
            return False
    return True


def _likeness(one: Tensor, other: Tensor) -> float:
    """Of an augmented picture, which may be mirrored: 1 for the same."""
    return max(correlation(one, other), correlation(one, other.flip(-1)))


def _equality(one: Tensor, other: Tensor) -> float:
    """1 for equal ones, down to 0."""
    if one.shape != other.shape:
        return 0.0
    span = float(other.max() - other.min()) or 1.0
    return 1 - min(1.0, float((one - other).abs().mean()) / span)


def _otherwise(data: Data, name: str, some: Sequence[Draw], made: Mapping[int, Tensor]) -> Iterator[Finding]:
    """Items that show their files, but not as `prepare` does."""
    received = [channels_first(draw.inputs) for draw in some]
    references = [made[draw.position] for draw in some]
    if any(one.shape != other.shape for one, other in zip(received, references, strict=True)):
        return
    far = [1 - _equality(one.double(), other.double()) for one, other in zip(received, references, strict=True)]
    if float(np.median(far)) <= SMALL:
        return
    explanation = explain(references, received, data.normalise)
    said = explanation.name if explanation is not None else "the pictures are prepared otherwise"
    yield Finding(
        "D08", "error" if explanation is not None else "warning", f"In {name}, otherwise than prepare does it, {said}", Culprit(name),
        (f"the values of {len(some)} pictures are off by {float(np.median(far)):.1%} of their range",
         *([f"explains {1 - explanation.left:.1%} of it"] if explanation is not None else [])),
        "Let every split but train, and serving, use one function.",
    )


def _data(patient: Patient) -> Data:
    if patient.data is None:
        raise CannotTell("no data")
    return patient.data


EXAMINATIONS: tuple[Examination, ...] = (label_source, label_integrity, class_balance)
