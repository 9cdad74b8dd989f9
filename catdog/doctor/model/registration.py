"""M07 unregistered: weights that work in the forward pass and belong to nobody: no optimizer, no device, no mode and no file gets them."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from catdog.doctor.examination import Examination, examination
from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.model.hidden import hidden, hidden_modules
from catdog.doctor.model.redraw import Weights, answers, seeded
from catdog.doctor.model.trace import behind, eager
from catdog.doctor.patient import Patient, tensors_in
from catdog.doctor.source import class_place


@examination(
    "M07", "unregistered", catches="modules in a plain list, tensors that are no nn.Parameter", passes=1,
)
def unregistered(patient: Patient) -> Iterator[Finding]:
    """A leaf that the outputs depend on, that stays from pass to pass, and that no parameters() names, is an error.

    Two witnesses: it is reached in the graph, and the outputs change with its value. What is only found lying in an attribute warns.
    """
    network = eager(patient.model)
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
    network = eager(patient.model)
    for path, owner, module in hidden_modules(network):
        weights = [*module.parameters(), *module.buffers()]
        has_mode = any(isinstance(one, (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)) for one in module.modules())
        is_meant = patient.intent.waives(path)
        is_trained = any(weight.requires_grad for weight in module.parameters()) or not weights
        if has_mode and is_trained and not is_meant and not any(id(weight) in reported for weight in weights):
            yield Finding(
                "M07", "warning", f"{type(module).__name__} in {_path(path)} is not registered: neither train() nor eval() reaches it",
                Culprit(_path(path), _where(owner, path)), (f"its flag is training={module.training}",), "Register it: nn.ModuleList.",
            )


def _foreign_leaves(patient: Patient) -> list[Tensor]:
    """Those of two passes that are neither parameters nor the inputs."""
    inputs, _ = patient.batch
    known = {id(one) for one in (*patient.model.parameters(), inputs)}
    found = [leaf for leaf in _leaves(tensors_in(patient.model(inputs))) if id(leaf) not in known]
    again = {id(leaf) for leaf in _leaves(tensors_in(patient.model(inputs)))} if found else set()
    return [leaf for leaf in found if id(leaf) in again]


def _leaves(tensors: list[Tensor]) -> list[Tensor]:
    """The tensors that a backward from these would leave a gradient in."""
    variables = (getattr(node, "variable", None) for node in behind(tensor.grad_fn for tensor in tensors))
    return [one for one in variables if isinstance(one, Tensor)]


def _waived(patient: Patient, places: Mapping[int, tuple[str, nn.Module]], leaf: Tensor) -> bool:
    path, _ = places.get(id(leaf), ("", None))
    return patient.intent.waives(path)


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


def _where(owner: nn.Module, path: str) -> str | None:
    place = class_place(type(owner), _path(path).rpartition(".")[2])
    return str(place) if place is not None else None


EXAMINATIONS: tuple[Examination, ...] = (unregistered,)
