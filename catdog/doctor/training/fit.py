"""T04, T05: what a short training of the owner's reads, and what it leaves on disk. Both look at one and the same training."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from catdog.doctor.examination import CannotTell, Examination, examination
from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.patient import ANY_ERROR, Patient, Training, logits_of
from catdog.doctor.source import Place
from catdog.doctor.training.attendance import LEAST, MOST, SAME
from catdog.doctor.training.ledger import Forward, Ledger, ledger_of, plain
from catdog.labels import listed

PASSES = 100
"""Of a batch: three epochs of a few hundred pictures."""
READ = 0.1
"""Share of test that is read too early; less may be a look at its shape."""
LEFT_OUT = 0.1
"""Share of train that is never read."""
ABOUT = 0.01
"""Share by which the best value of a history may be missed: many loops ask for an improvement of so much."""


@examination(
    "T04", "ledger of data use", needs=("training", "data"), passes=PASSES,
    catches="test that is read or chosen by before the end, training on val, pictures that are never read, a loader that is stuck",
)
def ledger(patient: Patient) -> Iterator[Finding]:
    """Watch a short training."""
    found = ledger_of(patient)
    if not found.reads:
        raise CannotTell("the training reads its pictures otherwise than through Data.splits")
    early = list(_of_test(patient, found))
    yield from early
    if found.is_matched:
        if not early:
            yield from _of_validation(found)
        yield from _of_steps(found)
    yield from _of_coverage(patient, found)


def _of_test(patient: Patient, found: Ledger) -> Iterator[Finding]:
    """Test, before the last step."""
    number = len(patient.data.splits["test"].paths) if patient.data is not None and "test" in patient.data.splits else 0
    last = max((place for place, (split, _) in enumerate(found.reads) if split == "train"), default=-1)
    early = {position for split, position in found.reads[:last] if split == "test"}
    if not number or len(early) < max(2, READ * number):
        return
    passes = [one for one in found.evaluations("test") if one[0].when <= last]
    where = _place(passes[0][0]) if passes else None
    is_chosen = not found.of("val")
    yield Finding(
        "T04", "error", f"test is read {'in place of val' if is_chosen else 'before the training has ended'}",
        Culprit("test", str(where) if where else None),
        (
            f"{len(early)} of {number} pictures of test were read before train was read for the last time, in {len(passes)} passes",
            f"{len(set(found.of('val')))} pictures of val were read",
            *(f"called at {place} in {place.function}: {place.text}" for place in (passes[0][0].places[:2] if passes else ())),
        ),
        "Stop and choose by val; read test once, when everything is decided.",
    )


def _place(forward: Forward) -> Place | None:
    """Where the pass was asked for: the line that called the function in which the network is called."""
    places = [place for place in forward.places if place.function != forward.places[0].function]
    return places[0] if places else next(iter(forward.places), None)


def _of_validation(found: Ledger) -> Iterator[Finding]:
    """val_... that is measured on train."""
    says_val = any(key.startswith("val") for record in found.history for key in record)
    unknown = [forward for forward in found.forwards if not forward.goes_back and not forward.read]
    passes = found.evaluations("train")
    if says_val and not found.of("val") and passes and not unknown:
        place = _place(passes[0][0])
        yield Finding(
            "T04", "error", "What is called validation is measured on train", Culprit("val", str(place) if place else None),
            ("no picture of val was read", f"{len(passes)} passes over pictures of train without a gradient"),
            "Evaluate on val.",
        )


def _of_steps(found: Ledger) -> Iterator[Finding]:
    """What the optimizer's steps were made of."""
    steps = list(found.trained())
    held = [forwards for forwards in steps if any(split != "train" for forward in forwards for split, _ in forward.read)]
    if len(held) >= 2:
        splits = Counter(split for forwards in held for forward in forwards for split, _ in forward.read if split != "train")
        forward = held[0][0]
        place = _place(forward)
        yield Finding(
            "T04", "error", f"The network is trained on pictures of {' and '.join(splits)}",
            Culprit(listed(list(splits)), str(place) if place else None),
            (f"{len(held)} of {len(steps)} steps have them in their batch: {dict(splits)}",), "Train on train alone.",
        )
    batches = [forwards[0].batch for forwards in steps if forwards]
    run, longest = 1, 1
    for one, other in pairwise(batches):
        run = run + 1 if one == other else 1
        longest = max(longest, run)
    epochs = max(1, len(found.history))
    if longest >= SAME and len(batches) >= 2 * epochs:
        yield Finding(
            "T04", "error", f"{longest} steps in a row are made with one and the same batch", Culprit("batch"),
            (f"of {len(batches)} steps in {epochs} epochs",),
            "Take the next batch in every step; next(iter(loader)) is always a first one.",
        )


def _of_coverage(patient: Patient, found: Ledger) -> Iterator[Finding]:
    data, training = patient.data, patient.training
    positions, epochs = found.of("train"), len(found.history)
    number = len(data.splits["train"].paths) if data is not None and "train" in data.splits else 0
    if not positions or not number or not epochs or data is None or training is None:
        return
    share = len(positions) / (number * epochs * training.coverage)
    never = number - len(set(positions))
    evidence = (f"{len(positions)} reads of {number} pictures in {epochs} epochs", f"{never} pictures were never read")
    is_cached = len(positions) <= number and len(set(positions)) == len(positions)
    if is_cached and epochs > 1 and never < LEFT_OUT * number:
        return  # read once, and kept in memory
    length = max(1, len(positions) // epochs)
    rounds = [set(positions[start : start + length]) for start in range(0, epochs * length, length)]
    is_same = epochs > 1 and all(len(own ^ rounds[0]) <= 0.1 * len(rounds[0]) for own in rounds)
    is_left_out = never >= LEFT_OUT * number and is_same and training.coverage == 1
    if data.order != "weighted" and (share < LEAST or is_left_out):
        yield Finding(
            "T04", "error", f"An epoch reads {share:.0%} of train" if share < LEAST else f"{never} pictures of train are never read",
            Culprit("train"), evidence, "Give the loader the whole of train.",
        )
    elif share > MOST and not found.evaluations("train"):
        yield Finding(
            "T04", "warning", f"An epoch reads {share:.0%} of train", Culprit("train"), evidence,
            "Look whether an epoch goes through the loader more than once.",
        )


@examination(
    "T05", "checkpoint and selection", needs=("training", "data"), passes=PASSES,
    catches="the last epoch saved as the best, a file without batch statistics, weights that are not those that were measured",
)
def checkpoint(patient: Patient) -> Iterator[Finding]:
    """Load what a short training has left into a fresh network, and compare it with what was measured at each epoch."""
    training: Training = patient.training  # type: ignore[assignment]
    found = ledger_of(patient)
    if not found.history or training.best_by not in found.history[0]:
        raise CannotTell(f"the history has no {training.best_by}")
    try:
        best = training.best()
    except ANY_ERROR as error:  # whatever somebody's loading raises
        yield Finding(
            "T05", "error", "What the training left as its best cannot be loaded", Culprit("best"),
            (f"{type(error).__name__}: {error}"[:300],), "Load the file into a fresh network right after it is written.",
        )
        return
    passes = _passes(found)
    if passes is None:
        raise CannotTell("the validations of the training could not be followed")
    values = [record[training.best_by] for record in found.history]
    wanted = min(values) if training.best_by.endswith("loss") else max(values)
    kept = {plain(name): value.detach().cpu() for name, value in best.state_dict().items()}
    differing = [_differing(kept, one[0].state) for one in passes]
    epoch = min(range(len(passes)), key=lambda place: (len(differing[place]), -place))
    if not differing[epoch]:
        same = [place for place, names in enumerate(differing) if not names]
        yield from _of_choice(training, values, wanted, same)
    else:
        yield from _of_content(best, passes, values, wanted, differing, epoch, patient)


def _passes(found: Ledger) -> list[list[Forward]] | None:
    """The validation of each epoch, with the state of the network that was measured."""
    passes = [one for one in found.evaluations("val") if one[0].state]
    if not passes:  # the loader has workers, or val is kept in memory: any pass without a gradient
        starts = [forward for forward in found.forwards if forward.state]
        passes = [[forward] for forward in starts]
    epochs = len(found.history)
    if len(passes) == epochs + 1 and passes[0][0].steps == 0:
        passes = passes[1:]
    if len(passes) == epochs + 1 and passes[-1][0].steps == passes[-2][0].steps:
        passes = passes[:-1]
    return passes if len(passes) == epochs else None


def _differing(kept: Mapping[str, Tensor], measured: Mapping[str, Tensor]) -> list[str]:
    """The names under which a network that was loaded is not what was measured, to what half precision keeps.

    What was measured may have more: a moving average its count, an auxiliary head.
    """
    return [
        name for name in kept
        if name not in measured or kept[name].shape != measured[name].shape
        or not torch.allclose(kept[name].double(), measured[name].double(), rtol=2e-3, atol=1e-5)
    ]


def _of_choice(training: Training, values: Sequence[float], wanted: float, same: Sequence[int]) -> Iterator[Finding]:
    nearest = min((values[place] for place in same), key=lambda value: abs(value - wanted))
    if nearest == wanted:
        return
    best, kept = values.index(wanted), same[-1]
    is_far = abs(nearest - wanted) > ABOUT * max(abs(wanted), 1e-12)
    is_last = kept == len(values) - 1
    yield Finding(
        "T05", "error" if is_far else "warning",
        f"What is saved as best is {'the last epoch' if is_last else f'epoch {kept + 1}'}, and epoch {best + 1} was better",
        Culprit(training.best_by),
        (
            f"{training.best_by} by epoch: {', '.join(f'{value:.4f}' for value in values)}",
            f"every tensor of the file equals what was measured at epoch {kept + 1}",
        ),
        "Save only when the value is better than the best before, and copy the weights: state_dict() goes on changing with the network.",
    )


def _of_content(
    best: nn.Module, passes: Sequence[Sequence[Forward]], values: Sequence[float], wanted: float, differing: Sequence[Sequence[str]],
    epoch: int, patient: Patient,
) -> Iterator[Finding]:
    names = sorted(differing[epoch])
    buffers, total = {plain(name) for name, _ in best.named_buffers()}, max(1, len(best.state_dict()))
    evidence = (f"{len(names)} of {total} tensors differ from what was measured at epoch {epoch + 1}: {listed(names)}",)
    if set(names) <= buffers:
        yield Finding(
            "T05", "error", "The buffers of the network that was measured are not in its file", Culprit(listed(names)), evidence,
            "Save the whole state_dict(), with its buffers, and load it strictly.",
        )
    elif len(names) <= 0.5 * total:
        yield Finding(
            "T05", "error", "A part of the network that was measured is not in its file", Culprit(listed(names)), evidence,
            "Save the whole state_dict(), and load it strictly.",
        )
    elif (off := _off(best, passes, patient)) is not None:
        yield Finding(
            "T05", "error", "What is saved as best is no epoch that was measured, and answers worse", Culprit("best"),
            (*evidence, f"the best value was {wanted:.4f} of {', '.join(f'{value:.4f}' for value in values)}", off),
            "Save the weights that were measured, before another step is made.",
        )


def _off(best: nn.Module, passes: Sequence[Sequence[Forward]], patient: Patient) -> str | None:
    """The second witness: how much more rarely the file is right than the best epoch was; None where it is not."""
    if patient.data is None or not passes[0][0].read:
        return None
    items = patient.data.splits["val"].items
    rows = [
        {position: row for forward in one for (_, position), row in zip(forward.read, forward.logits, strict=False)} for one in passes
    ]
    positions = sorted(set.intersection(*(set(own) for own in rows)))[:128]
    if len(positions) < 8 or rows[0][positions[0]].ndim != 1 or len(rows[0][positions[0]]) < 2:
        return None
    pairs = [items[position] for position in positions]
    target = torch.tensor([int(label) for _, label in pairs])
    device = next((parameter.device for parameter in best.parameters()), torch.device("cpu"))
    with torch.no_grad():
        answers = logits_of(best.eval()(torch.stack([torch.as_tensor(inputs) for inputs, _ in pairs]).to(device)))
    if answers is None:
        return None
    mine = _loss(answers.cpu(), target)
    theirs = min(_loss(torch.stack([own[position] for position in positions]), target) for own in rows)
    if mine <= theirs * 1.05 + 1e-3:
        return None
    return f"cross-entropy on {len(positions)} pictures of val: {mine:.4f} from the file, {theirs:.4f} at the best epoch"


def _loss(logits: Tensor, target: Tensor) -> float:
    return float(nn.functional.cross_entropy(logits.double(), target))


EXAMINATIONS: tuple[Examination, ...] = (ledger, checkpoint)
