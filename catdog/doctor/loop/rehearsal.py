"""Rehearsal, Update, next_update: what the owner's own training step does until it has made a few updates.

One rehearsal serves all examinations of a visit. It keeps names and norms, not tensors.
"""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any, Self

import torch
from torch import Tensor
from torch.optim import Optimizer

from catdog.doctor.examination import CannotTell
from catdog.doctor.patient import ANY_ERROR, Batch, Patient
from catdog.doctor.snapshot import Snapshot
from catdog.doctor.source import Place, bare_attributes, files_here, is_own, making
from catdog.doctor.tape import Event, Tape, recording

UPDATES = 3
"""One to begin with, one with what the first has left, one to be sure."""
MOST_CALLS = 20
"""Of the step, where a scaler leaves out its first updates: float16's falls from 2^16 to 1 in sixteen."""


@dataclass(frozen=True, slots=True)
class Update:
    """One step of one optimizer."""

    optimizer: Optimizer
    place: Place | None
    rate: float
    """The highest learning rate of its groups."""
    norms: dict[int, float | None]
    """By the id of each parameter in it: the norm of the gradient, None where there was none."""
    number: int
    """Of its event on the tape."""

    @property
    def has_gradient(self) -> bool:
        """Whether there was anything to follow."""
        return any(self.norms.values())


@dataclass(slots=True)
class Rehearsal:
    """What happened, and what is different behind it."""

    tape: Tape = field(default_factory=Tape)
    updates: list[Update] = field(default_factory=list)
    calls: int = 0
    moved: set[str] = field(default_factory=set)
    """Names of the parameters and buffers that changed."""
    in_training: set[str] = field(default_factory=set)
    """Paths of the modules that were in training mode in a forward pass of the whole network."""
    code: set[CodeType] = field(default_factory=set)
    """Functions of the owner's that ran."""
    error: BaseException | None = None
    error_place: Place | None = None

    @classmethod
    def of(cls, patient: Patient) -> Self:
        """Let the loop go on from where it is, and put the patient back."""
        if "rehearsal" not in patient.known:
            rehearsal, start = cls(), Snapshot.of(patient)
            rehearsal._make(patient)
            start.restore()
            patient.known["rehearsal"] = rehearsal
        kept: Self = patient.known["rehearsal"]
        return kept

    @property
    def optimizers(self) -> list[Optimizer]:
        """Those that made a step."""
        return list({id(update.optimizer): update.optimizer for update in self.updates}.values())

    def bare(self, *names: str) -> Place | None:
        """Where a method of one of these names stands without being called: `loss.backward`."""
        for code in sorted(self.code, key=lambda one: (one.co_filename, one.co_firstlineno)):
            for name, line in bare_attributes(code):
                if name in names:
                    return Place(code.co_filename, line, code.co_name)
        return None

    def making(self, optimizer: Optimizer) -> Place | None:
        """Where an optimizer is made, as far as the owner's files show it."""
        rate = max((float(group.get("lr", 0.0)) for group in optimizer.param_groups), default=0.0)
        return making(type(optimizer).__name__, [*(code.co_filename for code in self.code), *files_here()], lr=rate)

    def place(self, *kinds: Any) -> Place | None:
        """The first line that did one of these things."""
        return next((event.place for event in self.tape.of(*kinds) if event.place is not None), None)

    def _make(self, patient: Patient) -> None:
        named = [*patient.model.named_parameters(), *patient.model.named_buffers()]
        before = [(name, tensor, tensor.detach().clone()) for name, tensor in named]

        def on_event(event: Event) -> None:
            if event.kind == "forward":
                self.in_training |= {path for path, module in patient.model.named_modules() if module.training}
            if event.kind == ("stepped" if _is_closure(self.tape) else "step"):
                self.updates.append(_update(self.tape, event))
            self.tape.events[-1] = _light(event)

        try:
            with recording(patient, on_event=on_event) as self.tape, _listening(self.code):
                while self._goes_on(patient):
                    self.calls += 1
                    patient.train_step()
        except ANY_ERROR as error:  # whatever somebody's step raises
            self.error = error
            frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_own(frame.filename)]
            if frames:
                self.error_place = Place(frames[-1].filename, frames[-1].lineno or 0, frames[-1].name)
        self.moved = {name for name, tensor, value in before if not _is_same(tensor.detach(), value)}

    def _goes_on(self, patient: Patient) -> bool:
        least = UPDATES * patient.intent.accumulate
        if self.calls < least:
            return True
        is_new = self.calls < 2 * UPDATES + 2 and bool(self.tape.of("backward"))
        waits = bool(self.tape.of("attempt")) or patient.intent.accumulate > 1 or is_new
        return waits and len(self.tape.of("stepped")) < UPDATES and self.calls < max(MOST_CALLS, least)


@dataclass(slots=True)
class Made:
    """How an update came about."""

    gradients: dict[Tensor, Tensor] = field(default_factory=dict)
    """By parameter: what it was made from, before clipping and without a scaler's factor."""
    tape: Tape = field(default_factory=Tape)
    calls: int = 0
    """Of the step."""


def next_update(patient: Patient, batches: list[Batch] | None = None) -> Made:
    """Call the step until it has made an update. Each call gets the next of `batches`, or the patient's own.

    Raises:
        CannotTell: it makes no update.
    """
    made = Made()
    unclipped: dict[Tensor, Tensor] = {}

    def on_event(event: Event) -> None:
        if event.kind == "clip" and not unclipped:
            unclipped.update({one: one.grad.detach().clone() for one in _parameters(event.of) if one.grad is not None})
        if event.kind == ("stepped" if _is_closure(made.tape) else "step"):
            factor = _factor(event.of)
            for one in (one for group in event.of.param_groups for one in group["params"]):
                if one in unclipped or one.grad is not None:
                    made.gradients.setdefault(one, unclipped[one] if one in unclipped else one.grad.detach() / factor)

    rehearsal = Rehearsal.of(patient)
    if rehearsal.error is not None or not rehearsal.updates:
        raise CannotTell("the training step makes no update")
    with recording(patient, on_event=on_event) as made.tape:
        while not made.tape.of("stepped"):
            if made.calls == MOST_CALLS:
                raise CannotTell("the training step makes no update")
            patient.train_step(batches[made.calls % len(batches)] if batches else None)
            made.calls += 1
    return made


def _factor(optimizer: Any) -> float:
    """What a scaler has left for a fused optimizer to divide by."""
    factor = getattr(optimizer, "grad_scale", None)
    return 1.0 if factor is None else float(factor)


def _parameters(of: Any) -> list[Tensor]:
    return [of] if isinstance(of, Tensor) else [one for one in of if isinstance(one, Tensor)] if isinstance(of, (list, tuple)) else []


def _is_closure(tape: Tape) -> bool:
    """Whether the optimizer's step that was begun last was handed a closure, in which its gradients come about."""
    steps = tape.of("step")
    return bool(steps) and any(callable(one) for one in steps[-1].given)


def _update(tape: Tape, event: Event) -> Update:
    optimizer = event.of
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    has = [one for one in parameters if one.grad is not None]
    found = torch._foreach_norm([one.grad.detach().coalesce().values() if one.grad.is_sparse else one.grad for one in has]) if has else ()
    norms: dict[int, float | None] = {id(one): None for one in parameters}
    norms.update({id(one): float(norm) / _factor(optimizer) for one, norm in zip(has, found, strict=True)})
    rate = max((float(group.get("lr", 1.0)) for group in optimizer.param_groups), default=0.0)
    return Update(optimizer, event.place, rate, norms, len(tape.events) - 1)


def _light(event: Event) -> Event:
    """Without the graph that hangs on what it is of."""
    of = None if event.kind in ("forward", "loss", "backward", "gradient", "clip") else event.of
    given: tuple[Any, ...] = (event.of.get_scale() if event.of.is_enabled() else 1.0,) if event.kind == "scale" else ()
    if event.kind == "step":
        given = tuple(one for one in event.given if callable(one))
    if event.kind == "clip":
        given = tuple(one for one in event.given if isinstance(one, (int, float)))
    return Event(event.kind, event.place, of, given)


def _is_same(tensor: Tensor, value: Tensor) -> bool:
    return tensor.shape == value.shape and torch.equal(tensor, value)


@contextmanager
def _listening(code: set[CodeType]) -> Iterator[None]:
    """Note which functions of the owner's run."""
    before = sys.getprofile()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and is_own(frame.f_code.co_filename):
            code.add(frame.f_code)

    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(before)
