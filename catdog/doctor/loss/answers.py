"""Answer, answered, Like, plant: what gradient a loop gives to answers that were chosen for it.

N images of the batch, C labels. The network is made to return chosen logits; the owner's own step computes its loss of them and goes back;
what arrives at the logits is the loss, whatever stands between them: activations, mixing, signs, factors.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd import grad  # not torch.autograd.grad, which the recording hears

from catdog.doctor.examination import CannotTell
from catdog.doctor.loss.hearing import Hearing, activation_behind, has_the_range
from catdog.doctor.loss.planting import kept_alive, planted
from catdog.doctor.patient import Batch, Patient, logits_of, tensors_in
from catdog.doctor.snapshot import Snapshot
from catdog.doctor.source import Place
from catdog.doctor.tape import Event, Tape, recording


@dataclass(frozen=True, slots=True)
class Like:
    """What a network returns."""

    logits: Tensor
    """Or what has become of them: (N, C), (N, 1), (N,)."""
    is_plain: bool
    """Whether it returns nothing else."""
    activation: str
    """That it ends in: sigmoid, softmax, log_softmax; empty: none."""


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "": lambda logits: logits, "sigmoid": torch.sigmoid, "softmax": lambda logits: logits.softmax(dim=-1),
    "log_softmax": lambda logits: logits.log_softmax(dim=-1),
}


@dataclass(slots=True)
class Answer:
    """A planted answer and what came back to it."""

    logits: Tensor
    """As they were planted: (N, C), or of the shape that the network returns."""
    gradients: Tensor
    """The same shape; zero where no forward pass asked for the image."""
    is_matched: bool
    """Whether the rows of every forward pass were found among the images of the batch: it is then known what order they are in."""
    value: float
    """Of the loss, over all backward passes."""
    place: Place | None
    """Where the backward, or else the loss, stands."""
    hearing: Hearing


@dataclass(slots=True)
class _Planting:
    """One step on planted logits, while it happens."""

    patient: Patient
    logits: Tensor
    gradients: Tensor
    activation: str
    whole: bool
    is_matched: bool = True
    value: float = 0.0
    place: Place | None = None
    went_back: bool = False
    hearing: Hearing = field(default_factory=Hearing)
    factor: float = 1.0
    """Of a scaler."""
    leaves: list[tuple[Tensor, list[int]]] = field(default_factory=list)
    """Of each forward pass: what was returned, and which images they are."""

    def answer(self, given: Tensor) -> Tensor:
        rows, is_matched = _rows(given, self.patient.batch[0])
        leaf = self.logits[rows].clone().requires_grad_(torch.is_grad_enabled())
        self.leaves.append((leaf, rows))
        self.is_matched &= is_matched
        answer = ACTIVATIONS[self.activation](leaf)
        if not torch.is_grad_enabled():
            return answer
        return kept_alive(self.patient.model, answer, whole=self.whole) + (0.0 * given.sum() if given.requires_grad else 0.0)

    def on_event(self, event: Event) -> None:
        if event.kind == "scale" and event.of.is_enabled():
            self.factor = float(event.of.get_scale())
        if event.kind == "gradient" and not self.went_back:
            self.place = self.place or event.place
            self.come_back(event.of)
        if event.kind == "backward":
            if not self.went_back:  # what torch.autograd.grad was asked for before was something else, an adversary's step say
                self.went_back, self.place, self.value, self.gradients = True, event.place, 0.0, torch.zeros_like(self.logits)
            self.come_back(event.of)

    def come_back(self, root: Any) -> None:
        """Add up what arrives at the logits from one backward."""
        alive = [(leaf, rows) for leaf, rows in self.leaves if leaf.requires_grad]
        for loss in tensors_in([root]):
            if loss.requires_grad and alive:
                came = grad(loss.sum(), [leaf for leaf, _ in alive], retain_graph=True, allow_unused=True)
                self.value += float(loss.detach().sum()) / self.factor
                for (_, rows), part in zip(alive, came, strict=True):
                    if part is not None:
                        at = torch.tensor(rows, device=self.gradients.device)
                        self.gradients.index_add_(0, at, part.to(self.gradients.dtype) / self.factor)

    def without_backward(self, tape: Tape, result: Any) -> None:
        """Go back from the loss itself, where the loop does not."""
        heard = tape.of("loss")
        roots = [event.of for event in heard] or [one.result for one in self.hearing.losses] or [result]
        places = [event.place for event in heard] + [one.place for one in self.hearing.losses]
        self.place = next((place for place in places if place is not None), None)
        for root in roots:
            self.come_back(root)


def answered(patient: Patient, logits: Tensor, target: Tensor, *, like: Like, start: Snapshot, whole: bool = False) -> Answer:
    """Let the owner's step train on planted logits, or without an optimizer the loss alone, and put the patient back to its start.

    Args:
        logits: of the images of the batch, in its order.
        like: what the network itself returns: the logits go through the activation that it ends in.
        whole: every parameter gets a gradient of 0, not only some.

    Raises:
        CannotTell: the step does not call the network.
    """
    planting = _Planting(patient, logits, torch.zeros_like(logits), like.activation, whole)
    try:
        with planted(patient.model, planting.answer, is_plain=like.is_plain):
            with recording(patient, on_event=planting.on_event) as tape, planting.hearing:
                result = _go(patient, (patient.batch[0], target))
            if not tape.of("backward", "gradient"):
                planting.without_backward(tape, result)
    finally:
        start.restore()
    if not planting.leaves:
        raise CannotTell("the training step does not call the network")
    return Answer(logits, planting.gradients, planting.is_matched, planting.value, planting.place, planting.hearing)


def _go(patient: Patient, batch: Batch) -> Any:
    if patient.optimizer is not None:
        return patient.train_step(batch)
    if patient.loss is None:
        raise CannotTell("no loss")
    loss = patient.loss(patient.model(batch[0]), batch[1])
    torch.autograd.backward(loss)
    return loss


def _rows(given: Tensor, inputs: Tensor) -> tuple[list[int], bool]:
    """Which image of the batch each row is; by position where the loop has changed them."""
    if given.shape[1:] == inputs.shape[1:] and given.dtype == inputs.dtype:
        same = (given.flatten(1)[:, None] == inputs.flatten(1)[None]).all(dim=2)
        if bool(same.any(dim=1).all()):
            rows: list[int] = []
            for row in same:
                among = row.nonzero().flatten().tolist()
                rows.append(next((one for one in among if one not in rows), among[0]))
            return rows, True
    return [position % len(inputs) for position in range(len(given))], False


def plant(patient: Patient) -> Like:
    """See what the network returns, in one forward pass in its present mode.

    Raises:
        CannotTell: it returns no row of logits for each image.
    """
    start = Snapshot.of(patient)
    outputs = patient.model(patient.batch[0])
    start.restore()
    logits = logits_of(outputs)
    if logits is None or not logits.is_floating_point() or len(logits) != len(patient.batch[0]):
        raise CannotTell("the network returns no row of logits for each image")
    found = activation_behind(logits)
    ends_in = found[0] if found and has_the_range(found[0], logits) else ""
    return Like(logits.detach().float(), isinstance(outputs, Tensor), ends_in)
