"""Call, Trace: one training step seen from inside. Which modules ran, from which line, and what of them the loss is made of.

"Reached" is said of what the loss goes back to in autograd's graph; what gets a gradient in the real backward is known beside it, as
the graph has blind spots (a reentrant checkpoint, a Function of one's own) that the backward does not have.
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from catdog.doctor.patient import Batch, Patient, tensors_in
from catdog.doctor.source import Place, module_caller
from catdog.doctor.tape import Event, recording


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a module."""

    path: str
    """Of the module in the network; "" is the network."""
    place: Place | None
    sources: tuple[Node, ...]
    """The nodes that made its inputs."""
    inputs: tuple[tuple[int, ...], ...]
    """Shapes."""
    nodes: tuple[Node, ...]
    """The nodes that made its outputs."""
    outputs: tuple[tuple[int, ...], ...]
    """Shapes."""
    passes_on: bool
    """Whether what it returns is what it was given."""


@dataclass(slots=True)
class Trace:
    """What a step did."""

    calls: list[Call] = field(default_factory=list)
    reached: set[Node] = field(default_factory=set)
    """Nodes behind the loss."""
    returned: set[Node] = field(default_factory=set)
    """Nodes behind anything that the network returns."""
    parameters: set[Tensor] = field(default_factory=set)
    """Leaves behind the loss, and those that got a gradient."""
    loss: float = float("nan")

    @classmethod
    def of(cls, patient: Patient, *, batch: Batch | None = None) -> Self:
        """Make one step in the network's present mode."""
        trace, network = cls(), eager(patient.model)
        losses: list[Tensor] = []
        for parameter in network.parameters():
            parameter.grad = None

        def heard(event: Event) -> None:
            if event.kind == "backward":
                losses.extend(tensors_in(event.of))
            elif event.kind == "step":
                trace._note_gradients(network)

        with ExitStack() as stack:
            for path, module in network.named_modules():
                stack.callback(module.register_forward_hook(trace._noting(path), with_kwargs=True, always_call=False).remove)
            tape = stack.enter_context(recording(patient, on_event=heard))
            one_step(patient, batch)
        trace._note_gradients(network)
        losses = losses or [tensor for loss in tape.losses for tensor in tensors_in(loss)]
        trace.reached = behind(loss.grad_fn for loss in losses)
        outputs = [tensor for event in tape.of("forward") for tensor in tensors_in(_plain(event.of))]
        trace.returned = behind(tensor.grad_fn for tensor in outputs)
        trace.parameters |= {node.variable for node in trace.reached if hasattr(node, "variable")}
        trace.loss = sum(loss.item() for loss in losses)
        return trace

    @property
    def paths(self) -> dict[str, list[Call]]:
        """The calls of each module that ran, in the order of their first one."""
        by_path: dict[str, list[Call]] = {}
        for call in self.calls:
            by_path.setdefault(call.path, []).append(call)
        return by_path

    def is_live(self, path: str) -> bool:
        """Whether the loss is made of anything that the module returned."""
        return any(self.reached.intersection(call.nodes) for call in self.calls if call.path == path)

    def _note_gradients(self, network: nn.Module) -> None:
        self.parameters |= {parameter for parameter in network.parameters() if parameter.grad is not None}

    def _noting(self, path: str) -> Callable[..., None]:
        def note(module: nn.Module, arguments: Any, options: Any, outputs: Any) -> None:
            if torch._C._current_graph_task_id() != -1:
                return  # a checkpoint that computes its part again, in the backward
            given, made = tensors_in((arguments, options)), tensors_in(_plain(outputs))
            self.calls.append(
                Call(
                    path, module_caller(module), _nodes(given), _shapes(given), _nodes(made), _shapes(made),
                    bool(made) and all(any(one is other for other in given) for one in made),
                )
            )

        return note


def one_step(patient: Patient, batch: Batch | None = None) -> None:
    """A step of the owner's loop; where there is no optimizer, forward and backward."""
    if patient.optimizer is not None and patient.loss is not None:
        patient.train_step(batch)
    elif patient.loss is not None:
        inputs, target = batch or patient.batch
        torch.autograd.backward(patient.loss(patient.model(inputs), target))


def eager(network: nn.Module) -> nn.Module:
    """The network that torch.compile or DistributedDataParallel has wrapped, or itself."""
    for name in ("_orig_mod", "module"):
        inner = network._modules.get(name)
        if isinstance(inner, nn.Module) and (name == "_orig_mod" or isinstance(network, nn.parallel.DistributedDataParallel)):
            return eager(inner)
    return network


def behind(starts: Iterable[Node | None]) -> set[Node]:
    """All nodes of autograd's graph that these were made from, with them."""
    seen: set[Node] = set()
    waiting = [node for node in starts if node is not None]
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting.extend(before for before, _ in node.next_functions if before is not None)
    return seen


def noisy(patient: Patient, paths: Iterable[str], *, seed: int) -> float:
    """The loss of a step in which what these modules return has noise added, as large as itself; 0 modules: the loss as it is."""
    network, generator = eager(patient.model), torch.Generator().manual_seed(seed)

    def disturb(*call: Any) -> Any:
        return _mapped(call[-1], lambda tensor: _disturbed(tensor, generator))

    torch.manual_seed(seed)
    with ExitStack() as stack:
        for path in paths:
            stack.callback(network.get_submodule(path).register_forward_hook(disturb).remove)
        return Trace.of(patient).loss


def _disturbed(tensor: Tensor, generator: torch.Generator) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    noise = torch.randn(tensor.shape, generator=generator).to(tensor)
    return tensor + noise * (tensor.detach().abs().mean() + 1)


def _mapped(values: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(values, Tensor):
        return change(values)
    if isinstance(values, dict):
        return type(values)((name, _mapped(value, change)) for name, value in values.items())
    if isinstance(values, tuple) and hasattr(values, "_fields"):
        return type(values)(*(_mapped(value, change) for value in values))
    return type(values)(_mapped(value, change) for value in values) if isinstance(values, (list, tuple)) else values


def _plain(outputs: Any) -> Any:
    """What a network returns, with the fields of a dataclass or the like as a mapping."""
    return outputs if isinstance(outputs, (Tensor, tuple, list, dict)) else getattr(outputs, "__dict__", outputs)


def _nodes(tensors: Iterable[Tensor]) -> tuple[Node, ...]:
    return tuple(node for tensor in tensors if (node := tensor.grad_fn) is not None)


def _shapes(tensors: Iterable[Tensor]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(tensor.shape) for tensor in tensors)
