"""Operation, Operations, by_row: what torch computes in a forward pass, function after function, and which line asked for it."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from catdog.doctor.patient import tensors_in
from catdog.doctor.source import Place, caller

_OPERATORS = frozenset({"__getitem__", "__rsub__", "__rpow__", "__rmatmul__"})
"""Of the names that Python gives to operators those that torch keeps; +, * and @ are add, mul and matmul."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One function that gave a tensor."""

    name: str
    """As torch calls it: relu, mul, reshape, dropout."""
    place: Place | None
    path: str
    """Of the innermost module that it is in; empty: the network itself."""
    kept: Any
    """What was to be kept of it."""


class Operations(TorchFunctionMode):
    """For a with statement, in which every torch function of a network is noted. One that calls others inside torch is noted alone."""

    def __init__(self, network: nn.Module, keep: Callable[[Tensor, tuple[Any, ...]], Any]) -> None:
        """`keep` is asked for what to keep of each result, from the result and the function's arguments."""
        super().__init__()
        self._network, self._keep = network, keep
        self._hooks = ExitStack()
        self._inside: list[str] = [""]
        self.all: list[Operation] = []

    def __enter__(self) -> Self:
        """Begin."""
        for path, module in self._network.named_modules():
            self._hooks.callback(module.register_forward_pre_hook(lambda *_, path=path: self._inside.append(path)).remove)
            self._hooks.callback(module.register_forward_hook(lambda *_: self._left(), always_call=True).remove)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        """End."""
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._hooks.close()

    def _left(self) -> None:
        self._inside.pop()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call it and note it."""
        result = func(*args, **(kwargs or {}))
        name = (resolve_name(func) or getattr(func, "__name__", "")).rpartition(".")[2]
        if not name.startswith("__") or name in _OPERATORS:
            arguments = (*args, *(kwargs or {}).values())
            for tensor in tensors_in(result):
                self.all.append(Operation(name, caller(), self._inside[-1], self._keep(tensor, arguments)))
        return result


def by_row(images: int) -> Callable[[Tensor, tuple[Any, ...]], Tensor | None]:
    """For `keep`: two sums over each row of a tensor with as many rows as images, (N, 2) float64."""

    def kept(result: Tensor, _: tuple[Any, ...]) -> Tensor | None:
        if result.ndim == 0 or len(result) != images or result.numel() == 0:
            return None
        rows = result.detach().reshape(images, -1).double()
        return torch.stack((rows.sum(dim=1), rows.abs().sum(dim=1)), dim=1)

    return kept
