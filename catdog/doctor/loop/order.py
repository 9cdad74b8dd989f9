"""L03: whether the calls of a training step stand in an order in which each has its effect."""

from collections.abc import Iterator

from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from catdog.doctor.examination import examination
from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.loop.parameters import SHOWN
from catdog.doctor.loop.rehearsal import Rehearsal, Update
from catdog.doctor.patient import Patient
from catdog.doctor.source import Place
from catdog.doctor.tape import Event, Kind


@examination(
    "L03", "event order", catches="clipping behind the update, gradients wiped before it, a scaler used by halves, a scheduler too early",
    needs=("optimizer", "loss"), passes=3, of_large=True,
)
def event_order(patient: Patient) -> Iterator[Finding]:
    """Read the tape of three updates, with what the gradients were at each of them."""
    rehearsal = Rehearsal.of(patient)
    if rehearsal.error is None and rehearsal.updates and not any(event.given for event in rehearsal.tape.of("step")):
        yield from _wiped(rehearsal)
        yield from _clipped_late(rehearsal)
        yield from _scheduled_early(patient, rehearsal)
    if rehearsal.error is None:
        yield from _scaled_by_halves(rehearsal)
        yield from _asleep(patient, rehearsal)


def _finding(message: str, first: Event | Update, second: Event | Update, what: str, evidence: str, remedy: str) -> Finding:
    def line(place: Place | None) -> str:
        return f"{place}: {place.text}" if place else "somewhere"

    where = str(first.place) if first.place else None
    lines = (f"this: {line(first.place)}", f"and this: {line(second.place)}")
    return Finding("L03", "error", message, Culprit(what, where), (evidence, *lines), remedy)


def _between(rehearsal: Rehearsal) -> Iterator[tuple[list[Event], Update]]:
    """Of each update: what happened since the one before it."""
    start = 0
    for update in rehearsal.updates:
        yield rehearsal.tape.events[start : update.number], update
        start = update.number + 1


def _last(events: list[Event], *kinds: Kind) -> int:
    return max((position for position, event in enumerate(events) if event.kind in kinds), default=-1)


def _wiped(rehearsal: Rehearsal) -> Iterator[Finding]:
    if any(update.has_gradient for update in rehearsal.updates):
        return
    for events, update in _between(rehearsal):
        back, zero = _last(events, "backward"), _last(events, "zero")
        if 0 <= back < zero:
            yield _finding(
                "Gradients are wiped between backward and step: the update is made from nothing", events[zero], update, "zero_grad",
                f"backward at {events[back].place}, and no gradient left at any of {len(rehearsal.updates)} updates",
                "Zero the gradients before backward or behind step.",
            )
            return


def _clipped_late(rehearsal: Rehearsal) -> Iterator[Finding]:
    """Behind every update a clipping, and before none of them."""
    early = any(event.kind == "clip" for events, _ in _between(rehearsal) for event in events[_last(events, "backward") + 1 :])
    bounds = [event for event in rehearsal.tape.of("clip") if float("inf") not in event.given]
    if early or not bounds:
        return
    late = []
    for update in rehearsal.updates:
        behind = rehearsal.tape.events[update.number + 1 :]
        until = next((position for position, event in enumerate(behind) if event.kind in ("backward", "forward", "step")), len(behind))
        late += [(update, event) for event in behind[:until] if event.kind == "clip"]
    if len(late) == len(rehearsal.updates):
        update, clip = late[0]
        yield _finding(
            "Gradients are clipped behind the update that they were for", clip, update, "clip_grad",
            f"in all of {len(late)} updates; no clipping stands between backward and step",
            "Clip between loss.backward() and optimizer.step().",
        )


def _scheduled_early(patient: Patient, rehearsal: Rehearsal) -> Iterator[Finding]:
    """The scheduler moves on before the optimizer has used the rate that it began with: torch's own since 1.1 step in the other order."""
    first = rehearsal.updates[0]
    before = rehearsal.tape.events[: first.number]
    tried = next((position for position, event in enumerate(before) if event.kind == "attempt"), len(before))  # and perhaps left out
    early = [event for event in before[:tried] if event.kind == "schedule"]
    if not early:
        return
    in_every = all(any(event.kind == "schedule" for event in events) for events, _ in _between(rehearsal))
    behind_last = any(event.kind == "schedule" for event in rehearsal.tape.events[rehearsal.updates[-1].number :])
    groups = [group for optimizer in rehearsal.optimizers for group in optimizer.param_groups]
    begins_at_nothing = patient.optimizer is not None and all(float(group.get("lr", 1.0)) == 0 for group in patient.optimizer.param_groups)
    if in_every and not behind_last and groups and not begins_at_nothing:
        yield _finding(
            "The scheduler steps before the optimizer: the first learning rate of the schedule is never used", early[0], first,
            "scheduler.step", f"in all of {len(rehearsal.updates)} updates", "Call scheduler.step() behind optimizer.step().",
        )


def _scaled_by_halves(rehearsal: Rehearsal) -> Iterator[Finding]:
    """A loss that was scaled by more than 1."""
    scaled = [event for event in rehearsal.tape.of("scale") if event.given and event.given[0] != 1.0]
    if not scaled:
        return
    attempts, unscaled = rehearsal.tape.of("attempt"), rehearsal.tape.of("unscale")
    if rehearsal.updates and not attempts and not unscaled:
        yield _finding(
            f"The update is made from gradients that are {scaled[0].given[0]:g} times too large", rehearsal.updates[0], scaled[0],
            "optimizer.step", "the loss is scaled and neither scaler.step nor scaler.unscale_ is called",
            "Call scaler.step(optimizer) and scaler.update() instead of optimizer.step().",
        )
    for events, update in _between(rehearsal):
        tail = events[_last(events, "backward") + 1 :]
        clip, free = _last(tail, "clip"), _last(tail, "unscale")
        attempt = _last(tail, "attempt")
        if clip >= 0 and not 0 <= free < clip and (attempt < 0 or clip < attempt) and attempts:
            yield _finding(
                f"Gradients are clipped while they are {scaled[0].given[0]:g} times too large", tail[clip], update, "clip_grad",
                "the loss is scaled and scaler.unscale_ is not called before clipping",
                "Call scaler.unscale_(optimizer) between backward and clipping.",
            )
            return


def _asleep(patient: Patient, rehearsal: Rehearsal) -> Iterator[Finding]:
    """A training step in evaluation mode, of a network that has something to do in training mode."""
    trained = {path for path, module in patient.model.named_modules() if any(one.requires_grad for one in module.parameters())}
    idle = [
        path for path, module in patient.model.named_modules()
        if module.training and path not in rehearsal.in_training
        and (getattr(module, "p", 0) if isinstance(module, _DropoutNd) else isinstance(module, _NormBase) and path in trained)
    ]
    place = rehearsal.place("eval")
    if idle and place and rehearsal.tape.of("forward") and not rehearsal.in_training:
        yield Finding(
            "L03", "warning", "The training step puts the network into evaluation mode before it trains",
            Culprit("model.eval()", str(place)),
            (f"{len(idle)} modules do then nothing, or use statistics that never move: {', '.join(idle[:SHOWN])}",),
            "Call model.train() at the beginning of the step.",
        )


EXAMINATIONS = (event_order,)
