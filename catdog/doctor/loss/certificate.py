"""Certificate: which loss a gradient is of.

N images, C labels. A loss of which one knows the gradient at enough known logits (N, C) is known: it is compared with the losses that
classifiers are trained with, in front of which an activation may stand that does not belong there. All of them are linear in the target,
so label smoothing and weights by label are found by least squares.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

EXACT = 5e-3
"""Part of a gradient that may stay unexplained: rounding is 1e-6, another loss 0.1."""

_Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits, wanted probabilities), both (N, C) -> (N,)"""


def _cross_entropy(logits: Tensor, wanted: Tensor) -> Tensor:
    return functional.cross_entropy(logits, wanted, reduction="none")


def _bce(logits: Tensor, wanted: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(dim=1)


def _mse(logits: Tensor, wanted: Tensor) -> Tensor:
    return (logits - wanted).square().mean(dim=1)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "": lambda logits: logits, "softmax": lambda logits: logits.softmax(dim=1), "sigmoid": torch.sigmoid,
    "tanh": torch.tanh, "relu": torch.relu,
}
_HYPOTHESES: tuple[tuple[str, _Loss, str], ...] = (
    ("cross_entropy", _cross_entropy, ""), ("bce_with_logits", _bce, ""), ("mse", _mse, ""), ("mse", _mse, "softmax"),
    ("mse", _mse, "sigmoid"),
    ("cross_entropy", _cross_entropy, "softmax"), ("cross_entropy", _cross_entropy, "sigmoid"), ("bce_with_logits", _bce, "sigmoid"),
    ("bce_with_logits", _bce, "softmax"), ("cross_entropy", _cross_entropy, "tanh"), ("cross_entropy", _cross_entropy, "relu"),
    ("bce_with_logits", _bce, "tanh"), ("bce_with_logits", _bce, "relu"),
)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a loss is."""

    loss: str
    activation: str
    """Before it, beside its own; empty: none."""
    scales: dict[int, float]
    """By label: what the mean over the images is multiplied with; of targets that are no labels there is one, under -1."""
    smoothing: float
    unexplained: float
    """Part of the gradient."""

    def __str__(self) -> str:
        inner = f"{self.activation}(outputs)" if self.activation else "outputs"
        return f"{self.loss}({inner}, target)"

    @property
    def scale(self) -> float:
        """Over all labels."""
        return sum(self.scales.values()) / len(self.scales)

    @classmethod
    def of(cls, gradients: Tensor, logits: Tensor, target: Tensor, *, images: int) -> "Certificate | None":
        """The first known loss that explains the gradients (M, C) at logits (M, C); None: it is another one.

        Args:
            target: labels (M,), or what is wanted of each output (M, C).
            images: N, over which the mean is.
        """
        gradients, logits, target = (tensor.detach().cpu() for tensor in (gradients, logits, target))
        for name, loss, activation in _HYPOTHESES:
            if logits.shape[1] == 1 and (name == "cross_entropy" or activation == "softmax"):
                continue  # nothing of one output
            found = cls._fitted(name, loss, activation, gradients.double() * images, logits.double(), target)
            if found.unexplained < EXACT and -EXACT < found.smoothing < 1:
                return found
        return None

    @classmethod
    def _fitted(cls, name: str, loss: _Loss, activation: str, gradients: Tensor, logits: Tensor, target: Tensor) -> "Certificate":
        labels = logits.shape[1]
        is_soft = target.ndim == 2
        wanted = target.to(logits.dtype) if is_soft else functional.one_hot(target.long(), labels).to(logits.dtype)
        rows = {-1: torch.ones(len(target))} if is_soft else {label: (target == label).float() for label in sorted(set(target.tolist()))}

        def gradient(probabilities: Tensor) -> Tensor:
            inputs = logits.detach().clone().requires_grad_()
            return torch.autograd.grad(loss(_ACTIVATIONS[activation](inputs), probabilities).sum(), inputs)[0]

        own, even = gradient(wanted), gradient(torch.full_like(wanted, 1 / max(2, labels)))
        columns = [each * where[:, None] for each in (own, even) for where in rows.values()]
        matrix = torch.stack([column.flatten() for column in columns], dim=1)
        solution = torch.linalg.lstsq(matrix, gradients.flatten()[:, None], driver="gelsd").solution[:, 0]
        rest = gradients.flatten() - matrix @ solution
        parts = list(zip(rows, solution[: len(rows)].tolist(), solution[len(rows) :].tolist(), strict=True))
        total, spread = sum(hard + soft for _, hard, soft in parts), sum(soft for _, _, soft in parts)
        return cls(
            name, activation, {label: hard + soft for label, hard, soft in parts}, spread / total if abs(total) > 1e-9 else 0.0,
            float(rest.norm() / gradients.norm().clamp(min=1e-30)),
        )
