"""M11 modes: train() and eval() do what they say: dropout drops in training alone, statistics move in training alone."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from catdog.doctor.examination import Examination, examination
from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.model.hidden import hidden_modules
from catdog.doctor.model.operations import Operation, Operations, by_row
from catdog.doctor.model.redraw import Weights, seeded, settle
from catdog.doctor.model.trace import eager
from catdog.doctor.patient import Patient, tensors_in
from catdog.doctor.source import Place, module_caller

PASSES = 6
"""In training, with as many seeds: dropout of a twentieth and more is seen in one of them."""
SEEN = 0.05
"""Share that a dropout must drop for that."""
FAST = 0.9
"""Momentum of running statistics from which on the last batch is nearly all they know; in torch's convention the usual is 0.1."""
_Norm = nn.modules.batchnorm._NormBase
_Dropout = nn.modules.dropout._DropoutNd


@examination(
    "M11", "modes", catches="dropout in evaluation, dropout that never drops, statistics that move in evaluation", passes=4,
)
def modes(patient: Patient) -> Iterator[Finding]:
    """Errors: two evaluations differ, but not with the same random numbers; statistics move in evaluation; dropout has no effect."""
    network = eager(patient.model)
    weights = Weights(network)
    yield from _flags(patient, network)
    weights.draw(0)  # a head of zeros answers the same whatever is dropped
    settle(patient.model, patient.batch[0])
    yield from _evaluation(patient, network)
    yield from _training(patient, network)


def _flags(patient: Patient, network: nn.Module) -> Iterator[Finding]:
    """What train() leaves in evaluation although it is trained; momenta that are no momenta."""
    for path, module in _after_training_is_called(patient, network):
        trained = any(weight.requires_grad for weight in module.parameters(recurse=False))
        if isinstance(module, _Norm) and trained:
            yield Finding(
                "M11", "warning", f"{path} stays in evaluation after train(): its weights are trained and its statistics stand still",
                Culprit(path), remedy="If that is not meant: look at train() of the modules above it.",
            )
            break
    for path, module in network.named_modules():
        keeps_statistics = isinstance(module, _Norm) and module.track_running_stats and module.training
        if keeps_statistics and module.momentum is not None and not 0 < module.momentum < FAST:
            yield Finding(
                "M11", "warning", f"The running statistics of {path} have the momentum {module.momentum:g}: evaluation sees "
                f"{'those of the last batch' if module.momentum else 'those it began with'}", Culprit(path),
                remedy="torch's momentum is the share of the new batch: 0.1 is usual.",
            )
            break


def _after_training_is_called(patient: Patient, network: nn.Module) -> list[tuple[str, nn.Module]]:
    flags = [(module, module.training) for module in network.modules()]
    patient.model.train()
    left = [(path, module) for path, module in network.named_modules() if not module.training]
    for module, flag in flags:
        module.training = flag
    return left


def _evaluation(patient: Patient, network: nn.Module) -> Iterator[Finding]:
    """Two evaluations with other random numbers must be equal, and leave the buffers as they are."""
    flags = [(module, module.training) for module in network.modules()]
    patient.model.eval()
    before = {name: buffer.detach().clone() for name, buffer in network.named_buffers()}
    first = _said(patient, 0)
    moved = [name for name, buffer in network.named_buffers() if name in before and not torch.equal(buffer, before[name])]
    yield from _moving_statistics(patient, network, moved)
    is_random = not _same(first, _said(patient, 1))
    patient.known["random in evaluation"] = is_random
    if is_random and not patient.intent.random_eval:
        yield _random(patient, network, is_certain=_same(first, _said(patient, 0)))
    for module, flag in flags:
        module.training = flag


def _random(patient: Patient, network: nn.Module, *, is_certain: bool) -> Finding:
    operation = _first_random(patient, network)
    active = [
        path for path, module in [*network.named_modules(), *((path, module) for path, _, module in hidden_modules(network))]
        if module.training and isinstance(module, _Dropout)
    ]
    place = operation.place if operation is not None else None
    what = active[0] if active else operation.name if operation is not None else type(network).__name__
    return Finding(
        "M11", "error" if is_certain else "warning", f"Evaluation is random: {what} is active after eval()",
        Culprit(what, str(place) if place is not None else None),
        (
            "two evaluations of the same batch differ",
            "with the same random numbers they are equal" if is_certain else "with the same seed they differ too: a generator of their own",
            *((f"the first operation that differs: {operation.name}, {place.text}",) if operation and place else ()),
            *((f"still in training mode: {', '.join(active[:5])}",) if active else ()),
        ),
        "functional.dropout(x, p, training=self.training), or nn.Dropout; or declare random_eval.",
    )


def _moving_statistics(patient: Patient, network: nn.Module, moved: list[str]) -> Iterator[Finding]:
    """Buffers that an evaluation has changed: statistics of a normalisation are an error."""
    of_norms = [name for name in moved if isinstance(network.get_submodule(name.rpartition(".")[0]), _Norm)]
    flagged = [name for name in of_norms if network.get_submodule(name.rpartition(".")[0]).training]
    if of_norms:
        path = of_norms[0].rpartition(".")[0]
        place = _call_of(patient, network.get_submodule(path))
        yield Finding(
            "M11", "error", f"Evaluation moves the statistics of {path}", Culprit(path, str(place) if place is not None else None),
            (
                f"{len(of_norms)} buffers differ after an evaluation: {', '.join(of_norms[:3])}",
                f"after eval() {len(flagged)} of them belong to modules in training mode" if flagged
                else "the modules are in evaluation; their statistics are handed to a function that trains them",
            ),
            "Let eval() reach every module (super().train(mode)), and hand self.training on.",
        )
    others = [name for name in moved if name not in of_norms]
    if others:
        yield Finding(
            "M11", "warning", f"Evaluation changes {len(others)} buffers", Culprit(others[0]), (", ".join(others[:5]),),
            "If they are statistics, update them in training alone.",
        )


@torch.no_grad()
def _call_of(patient: Patient, module: nn.Module) -> Place | None:
    """The line that calls it, if any does."""
    places: list[Place | None] = []
    handle = module.register_forward_pre_hook(lambda *_: places.append(module_caller(module)))
    patient.model(patient.batch[0])
    handle.remove()
    return places[0] if places else None


def _first_random(patient: Patient, network: nn.Module) -> Operation | None:
    """The first operation whose result differs between two passes with other random numbers."""
    passes: list[list[Operation]] = []
    for seed in (0, 1):
        seeded(seed)
        with torch.no_grad(), Operations(network, by_row(len(patient.batch[0]))) as noted:
            network(patient.batch[0])
        passes.append(noted.all)
    for one, other in zip(passes[0], passes[1], strict=False):
        same = one.kept is None or other.kept is None or torch.equal(one.kept, other.kept)
        if one.name != other.name or not same:
            return one
    return None


def _training(patient: Patient, network: nn.Module) -> Iterator[Finding]:
    """Where a dropout drops something, something must come of it, and something must be left."""
    drops: dict[str, Place | None] = {}
    left: set[str] = set()

    def note(call: Any, path: str) -> None:
        module, given, result = call
        if not torch.equal(given[0], result):
            drops.setdefault(path, module_caller(module))
        left.update([path] if bool(result.any()) else [])

    live = {
        path: module for path, module in network.named_modules()
        if isinstance(module, _Dropout) and module.training and module.p >= SEEN and not module.inplace
    }
    if not live:
        return
    with ExitStack() as stack:
        for path, module in live.items():
            stack.callback(module.register_forward_hook(lambda *call, path=path: note(call, path)).remove)
        first = _said(patient, 0)
        is_without = all(_same(first, _said(patient, seed)) for seed in range(1, PASSES))
    everything = [path for path in drops if path not in left and live[path].p >= 1]
    for path in everything or (list(drops)[:1] if is_without else []):
        place = drops[path]
        yield Finding(
            "M11", "error", f"{path} drops everything in training" if everything else
            f"{path} drops values in training and nothing comes of it: its result is not used",
            Culprit(path, str(place) if place is not None else None),
            (f"p = {live[path].p:g}, and all it returns is 0",) if everything else
            (f"{PASSES} training passes with as many seeds are equal bit by bit", f"{len(drops)} dropouts changed what they were given"),
            "A share below 1." if everything else f"Use what it returns{f': {place.text}' if place is not None and place.text else '.'}",
        )


@torch.no_grad()
def _said(patient: Patient, seed: int) -> list[Tensor]:
    """Outputs and loss."""
    seeded(seed)
    outputs = patient.model(patient.batch[0])
    said = [one.clone() for one in tensors_in(outputs)]
    return [*said, patient.loss(outputs, patient.batch[1])] if patient.loss is not None else said


def _same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


EXAMINATIONS: tuple[Examination, ...] = (modes,)
