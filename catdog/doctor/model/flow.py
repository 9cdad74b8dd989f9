"""Cut, cut_behind: where, in a chain of torch functions, a gradient that is there becomes zero, and whether the data decided so."""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from catdog.doctor.model.evidence import is_in
from catdog.doctor.model.operations import Operations
from catdog.doctor.model.redraw import answers
from catdog.doctor.patient import tensors_in
from catdog.doctor.source import Place

_ADDITIVE = frozenset({"add", "add_", "sub", "sub_", "__rsub__", "cat", "concat", "stack", "sum", "mean"})
"""Functions whose arguments do not weigh one another."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The function whose result has a gradient while its argument has none."""

    name: str
    place: Place | None
    path: str
    channels: int
    is_chosen: bool
    """Another argument, made of the inputs or of trainable weights, may let the gradient through for other images: a router, a gate."""

    def __str__(self) -> str:
        return f"{self.name}{f' in {self.path}' if self.path else ''}"


@dataclass(slots=True)
class _Step:
    """What is known of one result."""

    sources: list[int]
    is_made_of_data: bool
    chosen_by: list[bool]
    """Of each tensor argument: whether it is made of data."""
    channels: int
    is_differentiable: bool
    has_gradient: bool = False


@dataclass(slots=True)
class _Flow:
    """What is made of what, by number of the operation."""

    data: set[int]
    """Identities of the inputs and of the trainable weights."""
    steps: list[_Step] = field(default_factory=list)
    made_by: dict[int, int] = field(default_factory=dict)
    alive: list[Tensor] = field(default_factory=list)
    """All results: an identity is one only as long as its tensor lives."""

    def keep(self, result: Tensor, arguments: tuple[Any, ...]) -> int:
        """Note a result; its number."""
        given = tensors_in(list(arguments))
        sources = [self.made_by[id(one)] for one in given if id(one) in self.made_by]
        of_data = [id(one) in self.data or (id(one) in self.made_by and self.steps[self.made_by[id(one)]].is_made_of_data) for one in given]
        channels = result.shape[1] if result.ndim == 4 else result.shape[-1] if result.ndim else 1
        step = _Step(sources, any(of_data), of_data, channels, result.requires_grad)
        if result.requires_grad:
            result.register_hook(lambda gradient: _note(step, gradient))  # type: ignore[no-untyped-call]
        number = len(self.steps)
        self.steps.append(step)
        self.made_by[id(result)] = number
        self.alive.append(result)
        return number


def _note(step: _Step, gradient: Tensor) -> None:
    step.has_gradient = step.has_gradient or bool(gradient.any())


def cut_behind(network: nn.Module, path: str, inputs: Tensor) -> Cut | None:
    """Follow what the module at `path` returns to where the gradient of the outputs ends; None where it is not seen."""
    flow = _Flow({id(inputs), *(id(weight) for weight in network.parameters() if weight.requires_grad)})
    with ExitStack() as stack:
        operations = stack.enter_context(Operations(network, flow.keep))
        said = answers(network(inputs), len(inputs))
    if not said.requires_grad:
        return None
    torch.autograd.backward((said * torch.rand(said.shape, generator=torch.Generator().manual_seed(0)).to(said).add(0.5)).sum())
    of_part: set[int] = set()
    for number, (operation, step) in enumerate(zip(operations.all, flow.steps, strict=True)):
        from_part = of_part.intersection(step.sources)
        if (from_part or is_in(operation.path, path)) and step.is_differentiable:
            of_part.add(number)
        if from_part and step.has_gradient and (dry := [one for one in from_part if not flow.steps[one].has_gradient]):
            return Cut(operation.name, operation.place, operation.path, step.channels, _is_chosen(operation.name, step, dry))
    return None


def _is_chosen(name: str, step: _Step, dry: Iterable[int]) -> bool:
    """Whether the function weighs its dry argument with another that is made of data."""
    return name not in _ADDITIVE and sum(step.chosen_by) > len(list(dry))


