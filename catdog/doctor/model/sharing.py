"""M12 shared: the same weights in two places, where nobody said so, and two places where one was promised."""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from catdog.doctor.examination import Examination, examination
from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.model.trace import eager
from catdog.doctor.patient import Patient
from catdog.doctor.source import class_place


@examination("M12", "shared", catches="one block repeated instead of several, ties that are lost, weights that overlap in memory")
def shared(patient: Patient) -> Iterator[Finding]:
    """A declared tie that is none is an error; one module at several places of one container, and overlapping weights, warn."""
    network = eager(patient.model)
    yield from _lost_ties(patient, network)
    yield from _repeated(patient, network)
    yield from _overlapping(patient, network)


def _lost_ties(patient: Patient, network: nn.Module) -> Iterator[Finding]:
    named = dict(network.named_parameters(remove_duplicate=False))
    for one, other in patient.intent.ties:
        missing = [name for name in (one, other) if name not in named]
        if missing:
            yield Finding(
                "M12", "warning", f"A tie is declared of {' and '.join(missing)}, and the network has no such parameter",
                Culprit(missing[0]), remedy="Name parameters as named_parameters(remove_duplicate=False) does.",
            )
        elif named[one].data_ptr() != named[other].data_ptr() and not _moves_with(named[one], named[other]):
            yield Finding(
                "M12", "error", f"{one} and {other} are meant to be one and are two", Culprit(f"{one}, {other}"),
                ("they lie at two places in memory", "a change of one leaves the other as it is"), f"Assign it: {other} = {one}.",
            )


@torch.no_grad()
def _moves_with(one: Tensor, other: Tensor) -> bool:
    """Whether a change of the first is seen in the second: the second witness, by value instead of by address."""
    before, kept = other.detach().clone(), one.detach().clone()
    one.add_(1.0)
    moved = not torch.equal(other, before)
    one.copy_(kept)
    return moved


def _repeated(patient: Patient, network: nn.Module) -> Iterator[Finding]:
    """The same object at several indices of one container."""
    total = sum(weight.numel() for weight in network.parameters())
    declared = {name for tie in patient.intent.ties for name in tie}
    for path, owner, attribute, items in _containers(network):
        places: dict[int, list[str]] = {}
        for key, module in items:
            if any(True for _ in module.parameters()):
                places.setdefault(id(module), []).append(key)
        modules = {id(module): module for _, module in items}
        for number, keys in places.items():
            names = {f"{path}.{key}.{name}" for key in keys for name, _ in modules[number].named_parameters()}
            if len(keys) > 1 and not names & declared:
                weights = sum(weight.numel() for weight in modules[number].parameters())
                place = class_place(type(owner), attribute)
                yield Finding(
                    "M12", "warning",
                    f"{path or type(network).__name__} holds one {type(modules[number]).__name__} {len(keys)} times",
                    Culprit(
                        f"{path}[{', '.join(keys)}]" if path else ", ".join(keys), str(place) if place else None,
                        parameters=weights / max(1, total),
                    ),
                    (f"{weights:,} weights serve as {len(keys) * weights:,}",),
                    "Make each anew: [Block() for _ in range(n)] instead of [Block()] * n; or declare the tie.",
                )


def _containers(network: nn.Module) -> Iterator[tuple[str, nn.Module, str, list[tuple[str, nn.Module]]]]:
    """(path, the module that has it as an attribute, the attribute, what is in it) of every container, registered or not."""
    modules = dict(network.named_modules())
    for path, module in modules.items():
        if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
            above, _, attribute = path.rpartition(".")
            items = [(key, child) for key, child in module._modules.items() if child is not None]
            yield path, modules.get(above, network), attribute, items
        for attribute, value in vars(module).items():
            if isinstance(value, (list, tuple)) and any(isinstance(one, nn.Module) for one in value):
                items = [(str(at), one) for at, one in enumerate(value) if isinstance(one, nn.Module)]
                yield f"{path}.{attribute}".lstrip("."), module, attribute, items


def _overlapping(patient: Patient, network: nn.Module) -> Iterator[Finding]:
    """Two parameters, not one, that share memory: an optimizer moves it twice."""
    del patient
    spans = sorted(
        ((*_span(weight), name) for name, weight in network.named_parameters() if weight.requires_grad and weight.numel()),
        key=lambda span: span[:2],
    )
    for (_, end, one), (start, _, other) in pairwise(spans):
        if start < end:
            yield Finding(
                "M12", "warning", f"{one} and {other} are two parameters in the same memory: every step moves it twice",
                Culprit(f"{one}, {other}"), remedy="Tie them by assigning the parameter itself, not its data.",
            )


def _span(weight: Tensor) -> tuple[int, int]:
    """First and last byte but one, of what the tensor reaches."""
    reach = sum((size - 1) * stride for size, stride in zip(weight.shape, weight.stride(), strict=True)) + 1
    return weight.data_ptr(), weight.data_ptr() + reach * weight.element_size()


EXAMINATIONS: tuple[Examination, ...] = (shared,)
