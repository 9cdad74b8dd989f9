"""L07: the ladder. First fit one sample, then one batch: what cannot do that cannot learn.

It is made behind all others: where it fails, it says what they have found to look at.
"""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Adam

from catdog.doctor.examination import CannotTell, examination
from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.loop.rehearsal import Rehearsal
from catdog.doctor.loss.clean import clean_loss, is_right
from catdog.doctor.model.redraw import Weights
from catdog.doctor.patient import ANY_ERROR, Batch, Patient, usual_step
from catdog.doctor.snapshot import Snapshot
from catdog.doctor.tape import recording

STEPS = 60
SECONDS = 8.0
"""For the whole ladder; a network that is too slow for it is not judged."""
FITS = 0.1
"""Of the loss at the beginning."""
MOVES = 0.8
"""Of the loss at the beginning: what has not fallen to that has not begun to learn."""
RATES = (1e-3, 1e-2)
"""Of Adam, for the second try and the third."""
STARTS = (1, 2, 3)
"""Seeds of other weights, for a network that moves from its own not at all: a ReLU that is off for every image is so for good."""
MOSTLY = 0.5
"""Of the parameters: where fewer are trained, a batch need not be fitted, only a sample."""


@dataclass(frozen=True, slots=True)
class _Climb:
    losses: list[float]
    fits: bool
    rate: float | None = None
    weights: int | None = None
    """The seed of the weights from which it began, where those are not its own."""
    steps: int = 0

    @property
    def moves(self) -> bool:
        return min(self.losses) <= MOVES * self.losses[0]

    def __str__(self) -> str:
        shown = [self.losses[round(part * (len(self.losses) - 1) / 5)] for part in range(6)] if len(self.losses) > 6 else self.losses
        return f"loss over {self.steps} steps: " + ", ".join(f"{loss:.3g}" for loss in shown)


@examination(
    "L07", "ladder", catches="anything that keeps a network from fitting one sample, or one batch", needs=("loss", "optimizer"), passes=60,
)
def ladder(patient: Patient) -> Iterator[Finding]:
    """Climb with the owner's own step; where that fails, with Adam and the plain step, to tell the loop from the network."""
    if Rehearsal.of(patient).error is not None:
        raise CannotTell("the training step cannot be made")
    start, until = Snapshot.of(patient), time.monotonic() + min(SECONDS, patient.patience)
    rungs = [("one sample", _one(patient)), (f"one batch of {len(patient.batch[0])}", patient.batch)]
    for rung, batch in rungs[: 2 if _share_trained(patient) > MOSTLY else 1]:
        # It puts back what only the step knows; what it hears would hold the graphs of all steps.
        with recording(patient, on_event=lambda _: tape.events.clear()) as tape:
            own = _climbed(patient, batch, start, until=until)
        if own.fits:
            continue
        others = []
        for rate in RATES:
            others.append(_climbed(patient, batch, start, until=until, rate=rate))
            if others[-1].fits:
                break
        elsewhere: list[_Climb] = []
        is_still = batch is not patient.batch and not any(climb.moves for climb in (own, *others))
        with suppress(CannotTell):  # where time runs out there, what has failed still has failed
            while is_still and len(elsewhere) < len(STARTS) and not any(climb.fits for climb in elsewhere):
                elsewhere.append(_climbed(patient, batch, start, until=until, rate=RATES[0], weights=STARTS[len(elsewhere)]))
        if own.moves and others[-1].fits and not any(finding.severity == "error" for finding in patient.findings):
            return  # it learns, only slowly
        yield _finding(patient, rung, own, others, elsewhere)
        return


def _share_trained(patient: Patient) -> float:
    parameters = list(patient.model.parameters())
    return sum(one.numel() for one in parameters if one.requires_grad) / max(1, sum(one.numel() for one in parameters))


def _known(patient: Patient) -> list[Finding]:
    """What the other examinations have found, the certain before the rest."""
    errors = [finding for finding in patient.findings if finding.severity == "error"]
    return errors or [finding for finding in patient.findings if finding.severity == "warning"]


def _one(patient: Patient) -> Batch:
    """One image and its mirror image: batch statistics can take neither one image nor two equal ones."""
    inputs, target = patient.batch
    mirrored = inputs[:1].flip(2) if inputs.ndim == 4 else inputs[:1]
    return torch.cat([inputs[:1], mirrored]), torch.cat([target[:1], target[:1]])


def _climbed(
    patient: Patient, batch: Batch, start: Snapshot, *, until: float, rate: float | None = None, weights: int | None = None,
) -> _Climb:
    """With the own step, or Adam at `rate`; from the own weights, or those of a seed.

    Raises:
        CannotTell: time ran out.
    """
    start.restore()
    if weights is not None:
        Weights(patient.model).draw(weights, flip=True)
    for module in patient.model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    loss = clean_loss(patient, batch)
    losses = [float(loss().detach())]
    parameters = [one for one in patient.model.parameters() if one.requires_grad]
    optimizer = Adam(parameters, lr=rate) if parameters and rate else None
    fits, number = False, 0
    for number in range(STEPS):
        if rate is None:
            _own_step(patient, batch)
        elif optimizer is not None and patient.loss is not None:
            usual_step(patient.model, batch, patient.loss, optimizer)
        if number % 5 == 4 or number < 3:
            losses.append(float(loss().detach()))
            fits = _fits(patient, batch, losses)
            if fits:
                break
            if number < STEPS - 1 and time.monotonic() > until:
                raise CannotTell(f"no time for {STEPS} steps on {len(batch[0])} images")
    start.restore()
    return _Climb(losses, fits, rate, weights, number + 1)


def _own_step(patient: Patient, batch: Batch) -> None:
    """All calls that an update takes."""
    try:
        for _ in range(patient.intent.accumulate):
            patient.train_step(batch)
    except ANY_ERROR as error:
        raise CannotTell(f"the training step fails after some calls: {type(error).__name__}: {error}"[:200]) from error


def _fits(patient: Patient, batch: Batch, losses: list[float]) -> bool:
    if losses[-1] <= FITS * losses[0]:
        return True
    return losses[-1] <= MOVES * losses[0] and is_right(patient, batch) == 1.0


def _finding(patient: Patient, rung: str, own: _Climb, others: list[_Climb], elsewhere: list[_Climb]) -> Finding:
    look = "; ".join(
        f"{finding.code}: {finding.message[:1].lower()}{finding.message[1:]} ({finding.culprit})" for finding in _known(patient)[:3]
    )
    if any(climb.fits for climb in elsewhere):
        blame, culprit, guess = "From other weights it can", "its first weights", "what is off for every image, such as a ReLU at the end"
    elif others[-1].fits:
        blame, culprit, guess = "With Adam and the plain step it can", "optimizer and loop", "the learning rate, the optimizer or the loop"
    else:
        blame, culprit, guess = "With Adam and the plain step it cannot either", "network and loss", "the network or the loss"
    is_still = rung == "one sample" and not any(climb.moves for climb in (own, *others, *elsewhere))
    is_stuck = is_still and len(elsewhere) == len(STARTS)
    return Finding(
        "L07", "error" if is_stuck else "warning", f"The network cannot fit {rung} in {STEPS} steps. {blame}", Culprit(culprit),
        (f"with the loop's own step: {own}", *map(_told, (*others, *elsewhere)),
         *(["there was no time to try other weights"] if is_still and not is_stuck else [])),
        f"Look first at {look}." if look else f"Look at {guess}: no other examination has found anything.",
    )


def _told(climb: _Climb) -> str:
    return f"with Adam at {climb.rate:g}{'' if climb.weights is None else ', from other weights'}: {climb}"


EXAMINATIONS = (ladder,)

