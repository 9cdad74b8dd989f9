"""L12: whether evaluation only looks."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from catdog.doctor.examination import examination
from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.loop.parameters import SHOWN
from catdog.doctor.loop.rehearsal import Rehearsal
from catdog.doctor.loss.planting import loader
from catdog.doctor.patient import ANY_ERROR, Patient, logits_of
from catdog.doctor.snapshot import Snapshot
from catdog.doctor.source import Place, caller


@dataclass(slots=True)
class _Look:
    """What a forward pass within an evaluation was like."""

    places: list[Place | None] = field(default_factory=list)
    in_training: dict[str, Place | None] = field(default_factory=dict)
    """Paths of modules in training mode, and the line that called the network."""
    with_graph: int = 0


@examination(
    "L12", "validation purity", catches="an evaluation in training mode, with gradients, or one that changes the network",
    needs=("evaluate", "loss"), passes=8,
)
def validation_purity(patient: Patient) -> Iterator[Finding]:
    """Run the owner's evaluation on a network in training mode, as the loop would, and see what state it works in and leaves."""
    if not any(module.training for module in patient.model.modules()):
        patient.model.train()
    if patient.optimizer is not None:
        _as_the_loop_leaves_it(patient)
    before = {name: (tensor, tensor.detach().clone()) for name, tensor in _state(patient.model)}
    flags = {path: module.training for path, module in patient.model.named_modules()}
    try:
        look = _evaluate(patient)
    except ANY_ERROR as error:  # whatever somebody's evaluation raises
        yield Finding(
            "L12", "warning", "The evaluation cannot be made", Culprit("evaluate"), (f"{type(error).__name__}: {error}"[:500],),
            "It gets (model, batches, loss): batches of (inputs, target), as a loader makes them.",
        )
        return
    changed = [name for name, (tensor, value) in before.items() if not torch.equal(tensor.detach(), value)]
    weights = {name for name, _ in patient.model.named_parameters()}
    place = str(look.places[0]) if look.places and look.places[0] else None
    if moved := [name for name in changed if name in weights]:
        yield Finding(
            "L12", "error", f"The evaluation trains: it changes {len(moved)} parameters", Culprit(", ".join(moved[:SHOWN]), place),
            (f"{len(moved)} of {len(weights)} parameters differ behind it",), "Measure only: no backward and no optimizer in evaluate.",
        )
    yield from _mode(patient, look, [name for name in changed if name not in weights], place)
    if look.with_graph:
        yield Finding(
            "L12", "warning", "The evaluation keeps the graph for gradients that nobody wants", Culprit("evaluate", place),
            (f"{look.with_graph} of {len(look.places)} forward passes with gradients enabled",), "Put @torch.no_grad() over it.",
        )
    after = {path: module.training for path, module in patient.model.named_modules()}
    if woken := [path for path, training in after.items() if training and not flags[path]]:
        yield from _woken(patient, woken, place)


def _as_the_loop_leaves_it(patient: Patient) -> None:
    """In the modes that the owner's step sets: frozen parts may be in evaluation mode."""
    rehearsal = Rehearsal.of(patient)
    if rehearsal.tape.of("forward") and rehearsal.tape.of("train"):
        for path, module in patient.model.named_modules():
            module.training = path in rehearsal.in_training


def _state(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _evaluate(patient: Patient) -> _Look:
    look = _Look()

    def on_root(_module: nn.Module, _: Any, outputs: Any) -> None:
        place = caller()
        look.places.append(place)
        logits = logits_of(outputs)
        look.with_graph += bool(logits is not None and logits.requires_grad)

    def of(path: str) -> Any:
        def on_any(module: nn.Module, _: Any) -> None:
            if module.training:
                look.in_training.setdefault(path, caller())

        return on_any

    handles = [patient.model.register_forward_hook(on_root)]
    handles += [module.register_forward_pre_hook(of(path)) for path, module in patient.model.named_modules()]
    try:
        if patient.evaluate is not None and patient.loss is not None:
            patient.evaluate(patient.model, loader(*patient.batch, size=max(2, len(patient.batch[0]) // 2)), patient.loss)
    finally:
        for handle in handles:
            handle.remove()
    return look


def _mode(patient: Patient, look: _Look, buffers: list[str], place: str | None) -> Iterator[Finding]:
    """In training mode, and it makes a difference: its statistics moved, or its answers are not those of evaluation mode."""
    leaves = [path for path in look.in_training if next(patient.model.get_submodule(path).children(), None) is None]
    awake = leaves or list(look.in_training)
    if not look.in_training or (patient.intent.random_eval and not buffers):
        return
    differs = bool(buffers) or _mode_matters(patient, look)
    shown = ", ".join(path or type(patient.model).__name__ for path in awake[:SHOWN])
    where = next((str(one) for one in look.in_training.values() if one), place)
    yield Finding(
        "L12", "error" if differs else "warning", "The evaluation runs in training mode",
        Culprit("model.eval()" if "" in look.in_training else shown, where),
        (
            f"{len(look.in_training)} modules with training=True in a forward pass of the evaluation: {shown}",
            f"{len(buffers)} buffers moved{': ' + ', '.join(buffers[:3]) if buffers else ''}",
            "its answers are other than in evaluation mode" if differs else "no module of this network behaves otherwise in training mode",
        ),
        "Call model.eval() before it and model.train() behind it.",
    )


@torch.no_grad()
def _mode_matters(patient: Patient, look: _Look) -> bool:
    start = Snapshot.of(patient)
    inputs = patient.batch[0]
    answers = []
    for modes in (look.in_training, ()):
        patient.model.eval()
        for path in modes:
            patient.model.get_submodule(path).training = True
        answers.append(logits_of(patient.model(inputs)))
        start.restore()
    one, other = answers
    return one is not None and other is not None and not torch.equal(one, other)


def _woken(patient: Patient, woken: list[str], place: str | None) -> Iterator[Finding]:
    """The step's own train() may put it right; where the network has no such call, the frozen part stays awake."""
    if patient.optimizer is not None and Rehearsal.of(patient).tape.of("train"):
        return
    yield Finding(
        "L12", "warning", f"The evaluation leaves {len(woken)} modules in training mode that were not before it",
        Culprit(", ".join(woken[:SHOWN]), place), (), "Put back the modes that were, module by module.",
    )


EXAMINATIONS = (validation_purity,)
