"""L11: whether what is meant to stay as it is does stay."""

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from catdog.doctor.examination import CannotTell, examination
from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.loop.parameters import SHOWN, chosen, grouped
from catdog.doctor.loop.rehearsal import Rehearsal
from catdog.doctor.patient import Patient


@examination(
    "L11", "frozen state", catches="a frozen part whose weights or batch statistics move", needs=("optimizer", "loss"), passes=3,
)
def frozen_state(patient: Patient) -> Iterator[Finding]:
    """Compare parameters and buffers of all that is not trained, before and behind three updates of the owner's loop."""
    rehearsal = Rehearsal.of(patient)
    if rehearsal.error is not None:
        raise CannotTell("the training step cannot be made")
    wanted = chosen(patient.model, patient.intent.trainable)
    frozen = [name for name, _ in patient.model.named_parameters() if name not in wanted]
    if not frozen:
        return
    yield from _weights(patient, rehearsal, frozen)
    yield from _statistics(patient, rehearsal, set(frozen))


def _weights(patient: Patient, rehearsal: Rehearsal, frozen: list[str]) -> Iterator[Finding]:
    """Moved by an optimizer: what an average of weights (a teacher) does to its own copy is no training."""
    named = dict(patient.model.named_parameters())
    held = {key for update in rehearsal.updates for key in update.norms}
    moved = [name for name in frozen if name in rehearsal.moved and id(named[name]) in held]
    if not moved:
        return
    required = [name for name in moved if named[name].requires_grad]
    place = rehearsal.updates[0].place
    yield Finding(
        "L11", "error", f"{len(moved)} frozen parameters are changed by the optimizer",
        Culprit(grouped(moved, patient.model), str(place) if place else None),
        (
            f"{len(rehearsal.updates)} updates; {len(required)} of the {len(moved)} require a gradient",
            f"declared trainable: {', '.join(patient.intent.trainable or ('what requires a gradient',))}",
        ),
        "Freeze them (requires_grad_(False)) and leave them out of the optimizer: weight decay moves even what has a gradient of 0.",
    )


def _statistics(patient: Patient, rehearsal: Rehearsal, frozen: set[str]) -> Iterator[Finding]:
    drifting = []
    for path, module in patient.model.named_modules():
        buffers = [f"{path}.{name}".lstrip(".") for name, _ in module.named_buffers(recurse=False)]
        if isinstance(module, _NormBase) and path in rehearsal.in_training and _is_frozen(patient.model, path, frozen):
            drifting += [name for name in buffers if name in rehearsal.moved]
    if not drifting:
        return
    modules = list(dict.fromkeys(name.rpartition(".")[0] for name in drifting))
    shown = ", ".join(modules[:SHOWN]) + (f" and {len(modules) - SHOWN} more" if len(modules) > SHOWN else "")
    place = rehearsal.place("train")
    yield Finding(
        "L11", "error" if patient.intent.freeze_strict else "warning", f"The batch statistics of {len(modules)} frozen modules move",
        Culprit(shown, str(place) if place else None),
        (
            f"changed in {len(rehearsal.updates)} updates: {', '.join(drifting[:4])}{' ...' if len(drifting) > 4 else ''}",
            "these modules are in training mode in the forward pass of the training step",
        ),
        "Call .eval() on the frozen part behind every model.train(); or leave it so on purpose, as some recipes do.",
    )


def _is_frozen(model: nn.Module, path: str, frozen: set[str]) -> bool:
    """Whether all parameters of the module are; of a module without parameters, those of what it lies in."""
    while True:
        names = [f"{path}.{name}".lstrip(".") for name, _ in model.get_submodule(path).named_parameters()]
        if names or not path:
            return bool(names) and frozen.issuperset(names)
        path = path.rpartition(".")[0]


EXAMINATIONS = (frozen_state,)
