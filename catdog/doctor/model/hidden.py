"""hidden, hidden_modules: what hangs in the plain attributes of a network's modules and is registered nowhere."""

from collections.abc import Collection, Iterator, Mapping
from functools import partial
from types import FunctionType
from typing import Any

from torch import Tensor, nn

DEPTH = 3
"""Lists in attributes of objects in attributes: how deep it is looked."""
MANY = 10_000
"""Things in a collection from which on it is data, and no place for modules."""
_OWN = frozenset(vars(nn.Module()))
"""Attributes that every module has from torch."""


def hidden(network: nn.Module) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """(path, the module whose attribute it is in, the tensor) of leaves with a gradient that are registered nowhere."""
    registered = {id(weight) for weight in network.parameters()}
    for path, owner, thing in _lying(network):
        weights = thing.named_parameters() if isinstance(thing, nn.Module) else [("", thing)]
        for name, weight in weights:
            if id(weight) not in registered and weight.is_leaf and weight.requires_grad:
                yield f"{path}.{name}" if name else path, owner, weight


def hidden_modules(network: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Module]]:
    """(path, the module whose attribute it is in, the module) of those that are registered nowhere."""
    registered = {id(module) for module in network.modules()}
    for path, owner, thing in _lying(network):
        if isinstance(thing, nn.Module) and id(thing) not in registered:
            yield path, owner, thing


def _lying(network: nn.Module) -> Iterator[tuple[str, nn.Module, Any]]:
    """Modules and tensors in the plain attributes of a network's modules."""
    seen: set[int] = set()
    for name, module in network.named_modules():
        for attribute, value in vars(module).items():
            if attribute not in _OWN:
                for path, thing in _inside(value, attribute, DEPTH, seen):
                    yield f"{name}.{path}" if name else path, module, thing


def _inside(value: Any, path: str, depth: int, seen: set[int]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (Tensor, nn.Module)):
        if id(value) not in seen:
            seen.add(id(value))
            yield path, value
        return
    if depth == 0:
        return
    inner: list[tuple[str, Any]] = []
    if isinstance(value, Mapping):
        inner = [(f"{path}[{key!r}]", one) for key, one in value.items()]
    elif isinstance(value, Collection) and not isinstance(value, (str, bytes, range)) and len(value) < MANY:
        inner = [(f"{path}[{number}]", one) for number, one in enumerate(value)]
    elif isinstance(value, FunctionType):
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        inner = [(f"{path}[{name}]", cell.cell_contents) for name, cell in cells if _full(cell)]
    elif isinstance(value, partial):
        inner = [(f"{path}[{number}]", one) for number, one in enumerate((value.func, *value.args, *value.keywords.values()))]
    elif hasattr(value, "__dict__") and not isinstance(value, type) and not type(value).__module__.startswith(("torch", "builtins")):
        inner = [(f"{path}.{name}", one) for name, one in vars(value).items()]
    for name, one in inner:
        yield from _inside(one, name, depth - 1, seen)


def _full(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a name that has no value yet
        return False
