"""M07 unregistered: weights that work in the forward pass and belong to nobody: no optimizer, no device, no mode and no file gets them."""

import ast
import inspect
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from catdog.doctor.examination import Examination, examination
from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.patient import Patient, tensors_in
from catdog.doctor.redraw import Weights, answers, seeded, unwrapped
from catdog.doctor.source import Place, parsed

DEPTH = 3
"""Lists in attributes of objects in attributes: how deep it is looked."""
_OWN = frozenset(vars(nn.Module()))
"""Attributes that every module has from torch."""


@examination(
    "M07", "unregistered", catches="modules in a plain list, tensors that are no nn.Parameter", needs=(), passes=3, of_large=True,
)
def unregistered(patient: Patient) -> Iterator[Finding]:
    """A leaf that the outputs depend on, that stays from pass to pass, and that no parameters() names, is an error.

    Two witnesses: it is reached in the graph, and the outputs change with its value. What is only found lying in an attribute warns.
    """
    network = unwrapped(patient.model)
    places = {id(leaf): (path, owner) for path, owner, leaf in hidden(network)}
    lost = [leaf for leaf in _foreign_leaves(patient) if _waived(patient, places, leaf) is False and _matters(patient, leaf)]
    trained = {id(weight) for group in (patient.optimizer.param_groups if patient.optimizer else ()) for weight in group["params"]}
    for root, leaves in _by_root(lost, places).items():
        path, owner = places.get(id(leaves[0]), (None, network))
        is_known = path is not None or (patient.optimizer is not None and not any(id(leaf) in trained for leaf in leaves))
        numbers = sum(leaf.numel() for leaf in leaves)
        registered = sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
        yield Finding(
            "M07", "error" if is_known else "warning",
            f"{numbers:,} weights in {root} work in the forward pass and are not among the network's parameters",
            Culprit(root, _where(owner, root), parameters=numbers / (numbers + registered)),
            (
                f"{len(leaves)} tensors are reached from the outputs and named by no parameters()",
                "the outputs change with their values",
                f"{sum(id(leaf) in trained for leaf in leaves)} of them are in the optimizer",
            ),
            "nn.ModuleList or nn.ModuleDict instead of a list or dict, nn.Parameter instead of a tensor.",
        )
    yield from _lying_modules(patient, {id(leaf) for leaf in lost})


def _lying_modules(patient: Patient, reported: set[int]) -> Iterator[Finding]:
    """Modules whose mode no train() and eval() sets."""
    network = unwrapped(patient.model)
    for path, owner, module in hidden_modules(network):
        weights = [*module.parameters(), *module.buffers()]
        has_mode = any(isinstance(one, (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)) for one in module.modules())
        is_meant = any(fnmatch(_path(path), pattern) for pattern in patient.intent.unused_ok)
        is_trained = any(weight.requires_grad for weight in module.parameters()) or not weights
        if has_mode and is_trained and not is_meant and not any(id(weight) in reported for weight in weights):
            yield Finding(
                "M07", "warning", f"{type(module).__name__} in {_path(path)} is not registered: train() and eval() do not reach it",
                Culprit(_path(path), _where(owner, path)), (f"its flag is training={module.training}",), "Register it: nn.ModuleList.",
            )


def leaves_of(tensors: list[Tensor]) -> list[Tensor]:
    """The tensors that a backward from these would leave a gradient in."""
    nodes = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
    seen, leaves = set(nodes), []
    while nodes:
        node = nodes.pop()
        if isinstance(variable := getattr(node, "variable", None), Tensor):
            leaves.append(variable)
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                nodes.append(following)
    return leaves


def _foreign_leaves(patient: Patient) -> list[Tensor]:
    """Those of two passes that are neither parameters nor the inputs."""
    inputs, _ = patient.batch
    known = {id(one) for one in (*patient.model.parameters(), inputs)}
    first, second = (leaves_of(tensors_in(patient.model(inputs))) for _ in range(2))
    again = {id(leaf) for leaf in second}
    return [leaf for leaf in first if id(leaf) not in known and id(leaf) in again]


def _waived(patient: Patient, places: Mapping[int, tuple[str, nn.Module]], leaf: Tensor) -> bool:
    path, _ = places.get(id(leaf), ("", None))
    return any(fnmatch(path, pattern) for pattern in patient.intent.unused_ok)


def _matters(patient: Patient, leaf: Tensor) -> bool:
    """Whether the outputs change with the leaf, away from the start, where a zero may hide it."""
    inputs, _ = patient.batch
    weights, value = Weights(patient.model), leaf.detach().clone()
    said = []
    weights.draw(0)
    for factor in (0.0, 1.0):
        leaf.data.copy_(value + factor * (0.1 + torch.rand_like(value)))
        seeded(0)
        with torch.no_grad():
            said.append(answers(patient.model(inputs), len(inputs)))
    leaf.data.copy_(value)
    weights.back()
    return not torch.equal(*said)


def _by_root(leaves: list[Tensor], places: Mapping[int, tuple[str, nn.Module]]) -> dict[str, list[Tensor]]:
    """Leaves by the attribute that holds them."""
    roots: dict[str, list[Tensor]] = {}
    for leaf in leaves:
        path, _ = places.get(id(leaf), ("a closure or a global variable", None))
        roots.setdefault(_path(path), []).append(leaf)
    return roots


def _path(path: str) -> str:
    """The attribute without what is inside it: blocks[2].0.weight -> blocks."""
    return path.partition("[")[0]


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
    elif isinstance(value, (list, tuple, set)):
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


def _where(owner: nn.Module, path: str) -> str | None:
    place = assigned_in(type(owner), _path(path).rpartition(".")[2])
    return str(place) if place is not None else None


def assigned_in(kind: type, attribute: str) -> Place | None:
    """The line of a class, or of one it comes from, that first gives `self.attribute` a value."""
    for one in kind.__mro__:
        try:
            file = inspect.getsourcefile(one)
        except TypeError:  # built in, or made by hand
            continue
        tree = parsed(file) if file is not None else None
        for node in ast.walk(tree) if tree is not None else ():
            if file is not None and isinstance(node, ast.ClassDef) and node.name == one.__name__:
                for inner in ast.walk(node):
                    targets = inner.targets if isinstance(inner, ast.Assign) else [getattr(inner, "target", None)]
                    if isinstance(inner, (ast.Assign, ast.AnnAssign)) and any(
                        isinstance(target, ast.Attribute) and target.attr == attribute for target in targets
                    ):
                        return Place(file, inner.lineno, node.name)
    return None


EXAMINATIONS: tuple[Examination, ...] = (unregistered,)
