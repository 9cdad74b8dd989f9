"""build, Loss: what training makes small, each with a target contract that cannot broadcast by accident.

N images, C labels. Every loss takes logits (N, C) float and target (N,) int64 and returns one loss per image (N,) float:
who calls decides on sum or mean, so that batches of different size can be added up without weighting errors.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from catdog.errors import BadConfig

Loss = Callable[[Tensor, Tensor], Tensor]


def build(name: str, *, labels: int, smoothing: float = 0.0) -> Loss:
    """The loss of that name for a network with `labels` outputs.

    With `smoothing` that share of the target is spread over all labels (Szegedy et al. 2016, https://arxiv.org/abs/1512.00567).

    Raises:
        BadConfig: unknown name.
    """
    formulas = {"cross_entropy": _cross_entropy, "bce_with_logits": _bce_with_logits, "mse": _mse}
    if name not in formulas:
        raise BadConfig(f"Expected a loss of {', '.join(formulas)}. Received: {name!r}.", field="loss")
    formula = formulas[name]

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        """One loss per image: logits (N, C) float, target (N,) int64 -> (N,) float.

        Raises:
            ValueError: shapes or types that would broadcast into nonsense: a bug of the caller.
        """
        if logits.ndim != 2 or logits.shape[1] != labels or not logits.is_floating_point():
            raise ValueError(f"Expected logits (N, {labels}) float. Received: {tuple(logits.shape)} {logits.dtype}.")
        if target.shape != logits.shape[:1] or target.dtype != torch.int64:
            raise ValueError(f"Expected target ({len(logits)},) int64. Received: {tuple(target.shape)} {target.dtype}.")
        wanted = functional.one_hot(target, labels).to(logits.dtype)
        return formula(logits, wanted * (1 - smoothing) + smoothing / labels)

    return loss


# Of each: logits (N, C) float and the probabilities wanted (N, C) float -> (N,) float.


def _cross_entropy(logits: Tensor, wanted: Tensor) -> Tensor:
    return functional.cross_entropy(logits, wanted, reduction="none")


def _bce_with_logits(logits: Tensor, wanted: Tensor) -> Tensor:
    """One yes-or-no question per label, averaged over the labels."""
    return functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(dim=1)


def _mse(logits: Tensor, wanted: Tensor) -> Tensor:
    """Squared distance of the softmax from the target, averaged over the labels (Brier 1950, divided by C)."""
    return (logits.softmax(dim=1) - wanted).square().mean(dim=1)
