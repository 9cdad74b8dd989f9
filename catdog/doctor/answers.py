"""Answer, answered: what gradient a loop gives to answers that were chosen for it.

N images of the batch, C labels. The network is made to return chosen logits; the owner's own step computes its loss of them and goes back;
what arrives at the logits is the loss, whatever stands between them: activations, mixing, signs, factors.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd import grad  # not torch.autograd.grad, which the recording hears

from catdog.doctor.examination import CannotTell
from catdog.doctor.hearing import Hearing
from catdog.doctor.patient import Batch, Patient, logits_of
from catdog.doctor.planting import kept_alive, planted
from catdog.doctor.snapshot import Snapshot
from catdog.doctor.source import Place
from catdog.doctor.tape import Event, recording


@dataclass(slots=True)
class Answer:
    """A planted answer and what came back to it."""

    logits: Tensor
    """As they were planted, (N, C) or as the network returns them."""
    gradients: Tensor
    """The same shape; zero where no forward pass asked for the image."""
    is_matched: bool
    """Whether the rows of every forward pass were found among the images of the batch: what order the loop has put them in is then known."""
    value: float
    """Of the loss, over all backward passes."""
    went_back: bool
    place: Place | None
    """Where the backward, or else the loss, stands."""
    hearing: Hearing


@dataclass(slots=True)
class _Passes:
    leaves: list[tuple[Tensor, list[int]]] = field(default_factory=list)
    is_matched: bool = True


def answered(patient: Patient, logits: Tensor, target: Tensor, *, is_plain: bool, with_step: bool, start: Snapshot) -> Answer:
    """Let the owner's step train on planted logits, and put the patient back to its start.

    Args:
        logits: of the images of the batch, in its order.
        with_step: through the owner's step; else the criterion alone.

    Raises:
        CannotTell: no loss came of it that depends on the network's answers.
    """
    inputs = patient.batch[0]
    passes, found, value = _Passes(), torch.zeros_like(logits), 0.0
    factor, place = 1.0, None
    hearing = Hearing()

    def answer(given: Tensor) -> Tensor:
        rows, is_matched = _rows(given, inputs)
        leaf = logits[rows].clone().requires_grad_(torch.is_grad_enabled())
        passes.leaves.append((leaf, rows))
        passes.is_matched &= is_matched
        if not torch.is_grad_enabled():
            return leaf
        return kept_alive(patient.model, leaf) + (0.0 * given.sum() if given.requires_grad else 0.0)

    def come_back(root: Any) -> None:
        nonlocal value
        for loss in [root] if isinstance(root, Tensor) else list(root):
            leaves = [leaf for leaf, _ in passes.leaves if leaf.requires_grad]
            if loss.requires_grad and leaves:
                came = grad(loss.sum(), leaves, retain_graph=True, allow_unused=True)
                value += float(loss.detach().sum()) / factor
                for (_, rows), part in zip([one for one in passes.leaves if one[0].requires_grad], came, strict=True):
                    if part is not None:
                        found.index_add_(0, torch.tensor(rows, device=found.device), part.to(found.dtype) / factor)

    def on_event(event: Event) -> None:
        nonlocal factor, place
        if event.kind == "scale" and event.of.is_enabled():
            factor = float(event.of.get_scale())
        if event.kind == "backward":
            place = place or event.place
            come_back(event.of)

    with planted(patient.model, answer, is_plain=is_plain), recording(patient, on_event=on_event) as tape, hearing:
        result = _go(patient, (inputs, target), with_step=with_step)
    went_back = bool(tape.of("backward"))
    if not went_back:
        heard = tape.of("gradient") or tape.of("loss")
        roots = [event.of for event in heard] or [one.result for one in hearing.losses] or [result]
        place = next((event.place for event in heard), None) or next((one.place for one in hearing.losses), None)
        for root in roots:
            if isinstance(root, Tensor):
                come_back(root)
    start.restore()
    if not passes.leaves:
        raise CannotTell("the training step does not call the network")
    return Answer(logits, found, passes.is_matched, value, went_back, place, hearing)


def _go(patient: Patient, batch: Batch, *, with_step: bool) -> Any:
    if with_step:
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
            free: list[int] = []
            for row in same:
                among = row.nonzero().flatten().tolist()
                free.append(next((one for one in among if one not in free), among[0]))
            return free, True
    return [position % len(inputs) for position in range(len(given))], False


def plant(patient: Patient) -> tuple[Tensor, bool]:
    """(what the network's logits are like, whether it returns nothing else), of one forward pass in its present mode."""
    start = Snapshot.of(patient)
    with torch.no_grad():
        outputs = patient.model(patient.batch[0])
    start.restore()
    logits = logits_of(outputs)
    if logits is None or not logits.is_floating_point() or len(logits) != len(patient.batch[0]):
        raise CannotTell("the network returns no row of logits for each image")
    return logits.float(), isinstance(outputs, Tensor)


