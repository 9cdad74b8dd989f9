"""Hearing, Heard, activation_behind: which losses of torch are computed from what, and which activations stand before them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from catdog.doctor.source import Place, caller

_LOSSES = {
    functional.cross_entropy: "cross_entropy", functional.nll_loss: "nll", functional.mse_loss: "mse",
    functional.binary_cross_entropy: "bce", functional.binary_cross_entropy_with_logits: "bce_with_logits",
}
_ACTIVATIONS = {"SigmoidBackward0": "sigmoid", "SoftmaxBackward0": "softmax", "LogSoftmaxBackward0": "log_softmax"}
_SAME_NUMBERS = (
    "View", "UnsafeView", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Permute", "T", "Expand", "ToCopy", "Alias", "Clone", "Slice",
    "Select", "Contiguous", "AsStrided",
)
"""Beginnings of the names of operations behind which the numbers are the same, elsewhere."""


@dataclass(frozen=True, slots=True)
class Heard:
    """One call of a loss of torch's."""

    kind: str
    outputs: Tensor
    target: Any
    result: Tensor
    place: Place | None


@dataclass(frozen=True, slots=True)
class Activation:
    """Where probabilities, or their logarithms, come about."""

    kind: str
    inputs: Tensor
    place: Place | None


@dataclass
class Hearing(TorchFunctionMode):
    """What torch is asked for as long as it is entered."""

    losses: list[Heard] = field(default_factory=list)
    activations: dict[Any, Activation] = field(default_factory=dict)
    """By the node of the graph."""

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """torch's own protocol."""
        result = func(*args, **(kwargs or {}))
        if func in _LOSSES:
            given = {**dict(zip(("input", "target"), args, strict=False)), **(kwargs or {})}
            self.losses.append(Heard(_LOSSES[func], given["input"], given.get("target"), result, caller()))
        elif isinstance(result, Tensor) and result.grad_fn is not None:
            kind = _ACTIVATIONS.get(result.grad_fn.name())
            if kind is not None and (args or kwargs):
                self.activations[result.grad_fn] = Activation(kind, args[0] if args else (kwargs or {})["input"], caller())
        return result


def chain(tensor: Tensor) -> Iterator[Any]:
    """The nodes of the graph from a tensor back to the first operation that makes other numbers, that one included."""
    node = tensor.grad_fn
    while node is not None:
        yield node
        if not node.name().startswith(_SAME_NUMBERS) or not node.next_functions:
            return
        node = node.next_functions[0][0]


def activation_behind(tensor: Tensor) -> tuple[str, Any] | None:
    """(kind, node) of the sigmoid, softmax or log_softmax that made the numbers of a tensor."""
    nodes = list(chain(tensor))
    kind = _ACTIVATIONS.get(nodes[-1].name()) if nodes else None
    return (kind, nodes[-1]) if kind is not None else None


def has_the_range(kind: str, values: Tensor) -> bool:
    """The second witness: whether the numbers are what such an activation makes."""
    values = values.detach().float()
    if kind == "log_softmax":
        return bool((values.exp().sum(-1) - 1).abs().max() < 1e-2)
    inside = bool(((values >= 0) & (values <= 1)).all())
    along = [bool((values.sum(dim) - 1).abs().max() < 1e-2) for dim in range(values.ndim)]
    return inside and (kind == "sigmoid" or any(along))


def raw(hearing: Hearing, outputs: Tensor) -> Tensor:
    """The logits behind a network's outputs: what its last activation was given, in the shape of the outputs."""
    found = activation_behind(outputs)
    activation = hearing.activations.get(found[1]) if found else None
    if activation is None or activation.inputs.numel() != outputs.numel() or not torch.is_tensor(activation.inputs):
        return outputs
    return activation.inputs.reshape(outputs.shape)
