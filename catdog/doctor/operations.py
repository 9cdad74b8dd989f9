"""Operation, Operations: what torch computes in a forward pass, one function after another, each with the user's line that asked for it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

from catdog.doctor.patient import tensors_in
from catdog.doctor.source import Place, caller


@dataclass(frozen=True, slots=True)
class Operation:
    """One function that gave a floating point tensor."""

    name: str
    """As torch calls it: relu, mul, reshape, dropout."""
    place: Place | None
    kept: Any
    """What was to be kept of it."""


class Operations(TorchFunctionMode):
    """A mode under which every torch function is noted. A function that calls others inside torch is noted alone."""

    def __init__(self, keep: Callable[[Tensor, tuple[Any, ...]], Any]) -> None:
        """`keep` is asked for what to keep of each result, from the result and the function's arguments."""
        super().__init__()
        self._keep = keep
        self.all: list[Operation] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call it and note it."""
        result = func(*args, **(kwargs or {}))
        name = (resolve_name(func) or getattr(func, "__name__", "")).rpartition(".")[2]
        if not name.startswith("__") or name in ("__getitem__", "__rsub__", "__rpow__"):
            for tensor in tensors_in(result):
                if tensor.is_floating_point():
                    self.all.append(Operation(name, caller(), self._keep(tensor, args)))
        return result


def by_row(images: int) -> Callable[[Tensor, tuple[Any, ...]], Tensor | None]:
    """For `keep`: two sums over each row of a tensor with as many rows as images, (N, 2) float64."""

    def kept(result: Tensor, _: tuple[Any, ...]) -> Tensor | None:
        if result.ndim == 0 or len(result) != images or result.numel() == 0:
            return None
        rows = result.detach().reshape(images, -1).double()
        return torch.stack((rows.sum(dim=1), rows.abs().sum(dim=1)), dim=1)

    return kept
