"""S03, S04: what a user reads: the name of a label, and a probability."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import permutations

import torch
from torch import Tensor

from catdog.doctor.examination import Examination, examination
from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.patient import ANY_ERROR, Patient
from catdog.doctor.serving.uploads import answer, serving_of, uploads_of
from catdog.doctor.source import defined_at
from catdog.labels import listed

EQUAL = 1e-3
"""Of probabilities: what one network answers to one picture twice."""
UNEQUAL = 0.02
"""Of probabilities: more than half precision, or 8 bits whose range is taken from the batch, make of it."""
ROUNDED = 5e-3
"""Of probabilities: what half precision makes of them."""
MOVED = 0.99
"""Share of the answers that an order of the labels explains."""
FEW_LABELS = 6
"""Labels of which every order is tried."""
STORE = "Store the labels with the weights, in the order of the outputs."


@examination("S03", "class map parity", needs=("serving", "data"), passes=4, catches="an answer under another label's name")
def class_map_parity(patient: Patient) -> Iterator[Finding]:
    """Compare the names of the outputs, and what stands under each."""
    serving, data = serving_of(patient), patient.data
    served, trained = list(map(str, serving.labels)), list(map(str, data.labels if data is not None else ()))
    culprit = Culprit("serving.labels")
    shown = (f"training: {listed(trained, most=10)}", f"serving: {listed(served, most=10)}")
    if len(served) != len(trained):
        yield Finding("S03", "error", f"Serving has {len(served)} labels, training {len(trained)}", culprit, shown, STORE)
        return
    if sorted(served) != sorted(trained):
        if [one.casefold() for one in served] != [one.casefold() for one in trained]:
            yield Finding("S03", "warning", "Serving has other labels than training", culprit, shown, STORE)
        return
    order = [trained.index(name) for name in served]
    is_renamed, likeness = order != list(range(len(order))), _under(patient, order)
    if is_renamed and likeness is not None and likeness[1] > max(likeness[0], MOVED):
        return  # outputs and names were put into another order together
    found = order if is_renamed else likeness[2] if likeness is not None else None
    if found is not None:
        moved = [
            f"{served[place]} stands for {trained[place if is_renamed else other]}" for place, other in enumerate(found) if place != other
        ]
        yield Finding(
            "S03", "error", f"An answer stands under another label's name: {listed(moved)}", culprit,
            (*shown, f"outputs in the order {tuple(found)}"), f"{STORE} Sorting strings puts 10 before 2.",
        )


def _under(patient: Patient, order: Sequence[int]) -> tuple[float, float, tuple[int, ...] | None] | None:
    """How far served probabilities are the network's: as they stand, put into `order`, and the order that fits where they do not."""
    serving = serving_of(patient)
    uploads = uploads_of(patient)
    try:
        answers = torch.as_tensor(serving.probabilities(uploads)).detach().cpu().double()
        expected = _expected(patient, uploads).softmax(-1)
    except ANY_ERROR:  # S04 says what is wrong with the answers
        return None
    if answers.shape != expected.shape or float(expected.std()) < 1e-4:
        return None

    def fit(columns: Sequence[int]) -> float:
        return 1 - float((answers - expected[:, list(columns)]).abs().mean()) / float((expected - expected.mean()).abs().mean())

    plain = tuple(range(len(order)))
    other = None
    if len(order) <= FEW_LABELS and fit(plain) < 0.9:
        best = max(permutations(plain), key=fit)
        other = best if best != plain and fit(best) > MOVED else None
    return fit(plain), fit(order), other


def _expected(patient: Patient, uploads: Sequence[bytes]) -> Tensor:
    """Logits of the served network itself; where it cannot be asked, of the network."""
    serving = serving_of(patient)
    inputs = torch.stack([torch.as_tensor(serving.prepare(one)) for one in uploads])
    if serving.logits is not None:
        with torch.no_grad():
            return torch.as_tensor(serving.logits(inputs)).detach().cpu().double()
    return answer(patient.model.eval(), inputs)


@examination(
    "S04", "output contract", needs=("serving",), passes=16,
    catches="probabilities that add up to something else, softmax twice, answers that depend on who asks at the same time",
)
def output_contract(patient: Patient) -> Iterator[Finding]:
    """Ask for the same pictures together, alone, and in another order."""
    serving, uploads = serving_of(patient), uploads_of(patient)
    culprit = Culprit("serving.probabilities", str(place) if (place := defined_at(serving.probabilities)) else None)

    def ask(some: Sequence[bytes]) -> Tensor:
        return torch.as_tensor(serving.probabilities(some)).detach().cpu().double()

    together = ask(uploads)
    if together.shape != (len(uploads), len(serving.labels)):
        yield Finding(
            "S04", "error", f"{len(uploads)} pictures of {len(serving.labels)} labels get answers of shape {tuple(together.shape)}",
            culprit, (), "Answer each picture with a probability for each label.",
        )
        return
    yield from _of_sums(together, culprit)
    yield from _of_company(together, ask, uploads, culprit)
    if serving.logits is not None:
        yield from _of_formula(patient, together, uploads, culprit)


def _of_sums(answers: Tensor, culprit: Culprit) -> Iterator[Finding]:
    sums = answers.sum(dim=1)
    if not bool(torch.isfinite(answers).all()) or float(answers.min()) < -1e-6 or float((sums - 1).abs().max()) > 1e-3:
        yield Finding(
            "S04", "error", "The answers are no probabilities", culprit,
            (f"values from {float(answers.min()):.3g} to {float(answers.max()):.3g}",
             f"sums from {float(sums.min()):.3g} to {float(sums.max()):.3g}"),
            "Answer softmax(logits).",
        )


def _of_company(
    together: Tensor, ask: Callable[[Sequence[bytes]], Tensor], uploads: Sequence[bytes], culprit: Culprit,
) -> Iterator[Finding]:
    """The same picture, asked with others, alone, and in another place."""
    if float((ask(uploads) - together).abs().max()) > EQUAL:
        yield Finding(
            "S04", "error", "The same pictures are answered otherwise each time", culprit, (f"{len(uploads)} pictures asked twice",),
            "Call .eval() on the network behind loading it.",
        )
        return
    alone = torch.cat([ask([one]) for one in uploads])
    backwards = ask(list(reversed(uploads))).flip(0)
    apart = max(float((one - together).abs().max()) for one in (backwards, alone))
    if apart > EQUAL:
        place = int((alone - together).abs().max(dim=1).values.argmax())
        mixed = [other for other in range(len(uploads)) if other != place and float((together[place] - alone[other]).abs().max()) < 1e-6]
        yield Finding(
            "S04", "error" if mixed or apart > UNEQUAL else "warning",
            "A picture's answer is another picture's" if mixed else "A picture's answer depends on what is asked with it", culprit,
            (f"picture {place} of {len(uploads)}: alone {_row(alone[place])}, with others {_row(together[place])}"
             + (f", which is the answer to picture {mixed[0]}" if mixed else ""),),
            "Keep answers in the order of the questions." if mixed else "Call .eval() on the network; compute nothing over the batch.",
        )


def _row(values: Tensor) -> str:
    return "(" + ", ".join(f"{value:.4f}" for value in values[:6].tolist()) + ")"


def _of_formula(patient: Patient, together: Tensor, uploads: Sequence[bytes], culprit: Culprit) -> Iterator[Finding]:
    """By which formula probabilities come from logits."""
    logits = _expected(patient, uploads)
    if logits.shape != together.shape or (bool((logits.argmax(1) == together.argmax(1)).all()) and _is_tempered(logits, together)):
        return
    if _is_moved(logits.softmax(1), together):
        return  # S03 says it, or what was said of the company
    formulas: Mapping[str, Tensor] = {
        "softmax is applied twice": logits.softmax(1).softmax(1), "softmax is never applied": logits,
        "sigmoid stands for softmax": logits.sigmoid(), "log_softmax stands for softmax": logits.log_softmax(1),
        "softmax is taken over the batch": logits.softmax(0), "the signs are exchanged": (-logits).softmax(1),
    }
    fits = [name for name, made in formulas.items() if float((made - together).abs().max()) < ROUNDED]
    yield Finding(
        "S04", "error" if fits else "warning", f"Probabilities are not softmax of the logits{': ' + fits[0] if fits else ''}", culprit,
        (f"logits {_row(logits[0])} are answered with {_row(together[0])}, softmax gives {_row(logits.softmax(1)[0])}",
         f"of {len(uploads)} pictures {int((logits.argmax(1) != together.argmax(1)).sum())} have another answer"),
        "Answer softmax(logits), once.",
    )


def _is_moved(probabilities: Tensor, answers: Tensor) -> bool:
    """Whether they are the same numbers in another order, of labels or of pictures."""
    mine, theirs = (values.sort(dim=1).values for values in (probabilities, answers))
    mine, theirs = (values[values[:, -1].argsort()] for values in (mine, theirs))
    return float((mine - theirs).abs().max()) < ROUNDED


def _is_tempered(logits: Tensor, answers: Tensor) -> bool:
    """Whether the answers are softmax(logits / T) for one temperature T: calibration is right."""
    odds = answers.clamp_min(1e-12).log()
    mine, theirs = (values - values.mean(dim=1, keepdim=True) for values in (logits, odds))
    seen = (answers > 1e-6).all(dim=1)
    if not bool(seen.any()) or float(mine[seen].abs().max()) < 1e-6:
        return float((logits.softmax(1) - answers).abs().max()) < ROUNDED
    slope = float((mine[seen] * theirs[seen]).sum() / (mine[seen] ** 2).sum())
    return slope > 0 and float(((slope * logits).softmax(1) - answers).abs().max()) < ROUNDED


EXAMINATIONS: tuple[Examination, ...] = (class_map_parity, output_contract)
