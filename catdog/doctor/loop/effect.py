"""L02: whether a training step changes the network, and if it does not, what is missing."""

from collections.abc import Iterator
from dataclasses import replace

from catdog.device import is_out_of_memory
from catdog.doctor.examination import CannotTell, examination
from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.loop.parameters import grouped, share
from catdog.doctor.loop.rehearsal import Rehearsal
from catdog.doctor.patient import Patient

ROUNDING = 1e-6
"""An update smaller than this share of a weight may leave a float32 as it is."""
@examination(
    "L02", "step effect", catches="a training step that moves nothing: backward or step not called, gradients lost, learning rate 0",
    needs=("optimizer", "loss"), passes=3, of_large=True,
)
def step_effect(patient: Patient) -> Iterator[Finding]:
    """Let the owner's loop make three updates; where nothing moves, say which of the calls is missing, and where it stands."""
    rehearsal = Rehearsal.of(patient)
    if rehearsal.error is not None:
        if isinstance(rehearsal.error, MemoryError) or is_out_of_memory(rehearsal.error):
            raise CannotTell("out of memory")
        yield _broken(rehearsal)
        return
    named = dict(patient.model.named_parameters())
    moved = rehearsal.moved & set(named)
    gradients = any(update.has_gradient for update in rehearsal.updates)
    if not rehearsal.tape.of("backward", "gradient") and not gradients and (rehearsal.updates or not moved):
        yield _never_back(rehearsal)
    if not rehearsal.updates and not rehearsal.tape.of("attempt") and not moved:
        yield _never_stepped(patient, rehearsal)
    held = {key for update in rehearsal.updates for key in update.norms}
    if gradients and not moved and held and not any(id(parameter) in held for parameter in named.values()):
        yield _another_network(patient, rehearsal)
    elif rehearsal.updates and rehearsal.tape.of("backward", "gradient"):
        closed = any(event.given for event in rehearsal.tape.of("step"))  # of whose gradients only the last is seen
        yield from _unmoved(patient, rehearsal, moved) if gradients else () if closed else _without_gradient(patient, rehearsal)
    elif not rehearsal.updates and rehearsal.tape.of("attempt"):
        raise CannotTell(f"the scaler left out the first {rehearsal.calls} updates")


def _broken(rehearsal: Rehearsal) -> Finding:
    where = str(rehearsal.error_place) if rehearsal.error_place else None
    return Finding(
        "L02", "error", "The training step cannot be made", Culprit("step", where),
        (f"{type(rehearsal.error).__name__}: {rehearsal.error}"[:500],), "Mend the step: it fails on a batch that network and loss take.",
    )


def _never_back(rehearsal: Rehearsal) -> Finding:
    bare = rehearsal.bare("backward")
    where = bare or rehearsal.place("loss", "forward")
    evidence = (
        f"{rehearsal.calls} calls of the step, {len(rehearsal.tape.of('forward'))} forward passes, 0 backward passes",
        f"no gradient in any of {len(rehearsal.updates)} updates",
    )
    if bare:
        return Finding(
            "L02", "error", f"backward is never called: `{bare.code}` names it and does not call it", Culprit("loss.backward", str(bare)),
            evidence, "Write loss.backward() with its brackets.",
        )
    return Finding(
        "L02", "error", "backward is never called: there are no gradients to learn from",
        Culprit("loss.backward", str(where) if where else None), evidence,
        "Call loss.backward() behind the loss and before optimizer.step().",
    )


def _never_stepped(patient: Patient, rehearsal: Rehearsal) -> Finding:
    bare = rehearsal.bare("step")
    where = bare or rehearsal.place("backward", "loss", "forward")
    evidence = (
        f"{rehearsal.calls} calls of the step, 0 updates of {type(patient.optimizer).__name__}",
        f"0 of {sum(1 for _ in patient.model.parameters())} parameters changed",
    )
    if bare:
        return Finding(
            "L02", "error", f"step is never called: `{bare.code}` names it and does not call it", Culprit("optimizer.step", str(bare)),
            evidence, "Write optimizer.step() with its brackets.",
        )
    return Finding(
        "L02", "error", "step is never called: the optimizer moves nothing",
        Culprit("optimizer.step", str(where) if where else None), evidence, "Call optimizer.step() behind loss.backward().",
    )


def _another_network(patient: Patient, rehearsal: Rehearsal) -> Finding:
    place = rehearsal.updates[-1].place
    return Finding(
        "L02", "error", "The loop trains another network than this one", Culprit("optimizer.step", str(place) if place else None),
        (
            f"{len(rehearsal.updates)} updates of {len(rehearsal.updates[-1].norms)} tensors, of which none is this network's",
            f"0 of {sum(1 for _ in patient.model.parameters())} parameters changed",
        ),
        "Build the optimizer from the parameters of the network that is trained: a copy, or one moved or wrapped since, is another.",
    )


def _without_gradient(patient: Patient, rehearsal: Rehearsal) -> Iterator[Finding]:
    """A backward, an update, and no gradient between them."""
    update = rehearsal.updates[-1]
    kinds = [event.kind for event in rehearsal.tape.events[: update.number]]
    back = max(position for position, kind in enumerate(kinds) if kind in ("backward", "gradient")) if "backward" in kinds else -1
    if "zero" in kinds[back + 1 :]:
        return  # L03 names the two lines
    held = {key for one in rehearsal.updates for key in one.norms}
    if not any(id(parameter) in held for parameter in patient.model.parameters()):
        return  # L01 names the tensors
    place = rehearsal.place("backward", "gradient")
    yield Finding(
        "L02", "error", "backward starts from something that does not depend on the network: no parameter gets a gradient",
        Culprit("loss", str(place) if place else None),
        (f"{len(rehearsal.updates)} updates with a gradient of None or exactly 0 for every parameter in the optimizer",),
        "Go back from the very tensor that the criterion returned; .item(), .detach(), .data and torch.tensor(loss) cut it off.",
    )


def _unmoved(patient: Patient, rehearsal: Rehearsal, moved: set[str]) -> Iterator[Finding]:
    """Updates with gradients, and the same parameters behind them."""
    named = dict(patient.model.named_parameters())
    rates: dict[int, float] = {}
    pulls: dict[int, float] = {}
    for update in rehearsal.updates:
        for key, norm in update.norms.items():
            if norm:
                rates[key] = max(update.rate, rates.get(key, 0.0))
                pulls[key] = max(update.rate * norm, pulls.get(key, 0.0))
    still = [name for name, one in named.items() if id(one) in rates and name not in moved]
    if not still:
        return
    rate = max(rates[id(named[name])] for name in still)
    place = rehearsal.updates[-1].place
    where = str(place) if place else None
    culprit = Culprit(grouped(still, patient.model), where, share(still, patient.model))
    if rate == 0:
        yield from _rate_of_nothing(patient, rehearsal, culprit)
    elif rate > ROUNDING and not moved:
        yield Finding(
            "L02", "error", "The optimizer steps and no parameter moves", culprit,
            (f"{len(rehearsal.updates)} updates with gradients at learning rate {rate:g}, 0 parameters changed",),
            "Look at what the loop does behind optimizer.step(): something puts the weights back, or moves a copy.",
        )
    elif any(pulls[id(named[name])] > ROUNDING * float(named[name].detach().norm()) for name in still):
        yield Finding(
            "L02", "warning", f"{len(still)} parameters have a gradient and do not move", culprit,
            (f"{len(rehearsal.updates)} updates at learning rate {rate:g}",), "Look at the learning rate and the precision of their group.",
        )


def _rate_of_nothing(patient: Patient, rehearsal: Rehearsal, culprit: Culprit) -> Iterator[Finding]:
    """A learning rate of 0: where a schedule is at work it is how a warm-up begins."""
    groups = [group for optimizer in rehearsal.optimizers for group in optimizer.param_groups]
    is_scheduled = patient.scheduler is not None or patient.schedule is not None or bool(rehearsal.tape.of("schedule"))
    if is_scheduled or any("initial_lr" in group for group in groups):
        return
    made = rehearsal.making(rehearsal.optimizers[0])
    culprit = replace(culprit, where=str(made)) if made else culprit
    is_meant = all(float(optimizer.defaults.get("lr", 1.0)) == 0 for optimizer in rehearsal.optimizers)
    yield Finding(
        "L02", "error" if is_meant else "warning", "The learning rate is 0: the optimizer steps and nothing moves", culprit,
        (f"{len(rehearsal.updates)} updates at learning rate 0, and there is no schedule that would raise it",),
        "Give the optimizer a learning rate; or hand the schedule over (scheduler=), if it begins with 0.",
    )


EXAMINATIONS = (step_effect,)
