"""Learner: a network and everything that makes it learn, put together from a config."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from catdog import balance, losses, optimizers
from catdog import device as devices
from catdog.config import TrainConfig
from catdog.losses import Loss
from catdog.ranks import Ranks


@dataclass(slots=True)
class Learner:
    """What a training step uses. C labels."""

    network: nn.Module
    """In channels-last order: on 2 cores a forward through EfficientNet-Lite0 takes two thirds of the time, on GPUs less too."""
    config: TrainConfig
    device: str
    ranks: Ranks
    loss: Loss
    """What training makes small."""
    plain_loss: Loss
    """What is measured: the same without label smoothing."""
    label_weights: Tensor
    """(C,) what the loss of an image is multiplied with."""
    optimizer: Optimizer
    precision: torch.dtype
    """What the network multiplies in."""
    scaler: GradScaler
    """Keeps float16's small gradients from vanishing; in other precisions it does nothing."""
    average: AveragedModel | None
    """The moving average of the weights (torch's own), where the config wants one."""
    shared: nn.Module = field(init=False)
    """The network as the ranks share it: torch's DistributedDataParallel, or itself."""
    forward: Callable[[Tensor], Tensor] = field(init=False)
    """The same as a step calls it: compiled, or as it is."""

    @classmethod
    def build(
        cls, network: nn.Module, config: TrainConfig, *, targets: Tensor, labels: int, device: str, ranks: Ranks,
    ) -> Self:
        """Move the network to the device, its batch statistics over all ranks there, and build what trains it; `targets` are train's.

        Raises:
            BadConfig: compile is wanted and cannot be.
        """
        network = devices.with_shared_statistics(network, ranks=ranks.size, device=device).to(device)
        network = network.to(memory_format=torch.channels_last)
        precision = devices.multiply_in(config.precision, device=device)
        weighted = config.balance == "weighted"
        learner = cls(
            network=network, config=config, device=device, ranks=ranks, precision=precision,
            loss=losses.build(config.loss, labels=labels, smoothing=config.label_smoothing),
            plain_loss=losses.build(config.loss, labels=labels),
            label_weights=torch.tensor(balance.weights(targets, labels) if weighted else [1.0] * labels, device=device),
            optimizer=optimizers.build(network, config),
            scaler=GradScaler(device, enabled=precision is torch.float16),
            average=_average(network, config.ema),
        )
        learner._share()
        return learner

    @property
    def judged(self) -> nn.Module:
        """What is measured, and published: the average where there is one."""
        if self.average is None:
            return self.network
        module: nn.Module = self.average.module
        return module

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What the optimizer moves."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def train_head_only(self, wanted: bool) -> None:
        """Before an epoch: let the head alone be trained, or all that shall be."""
        backbone = [one for group in self.optimizer.param_groups if not group["is_head"] for one in group["params"]]
        if all(parameter.requires_grad is not wanted for parameter in backbone):
            return
        for parameter in backbone:
            parameter.requires_grad_(not wanted)
        self._share()  # torch notes then which gradients there will be

    def _share(self) -> None:
        self.shared = self.ranks.parallel(self.network)
        self.forward = devices.compiled(self.shared, wanted=self.config.compile)

    def set_rate(self, rate: float) -> None:
        """Give each group its learning rate, of which `rate` is the head's."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]

    def autocast(self) -> torch.autocast:
        """Multiply in `precision`; in float32 it does nothing."""
        return torch.autocast(self.device, dtype=self.precision, enabled=self.precision is not torch.float32)

    def losses_of(self, logits: Tensor, parts: Sequence[tuple[Tensor, float]]) -> tuple[Tensor, Tensor]:
        """Of each image (N,): its loss, and its loss by the weight of its label. `parts` are the targets and how much of each is wanted."""
        each = [(lam * self.loss(logits, target), self.label_weights[target]) for target, lam in parts]
        return torch.stack([loss for loss, _ in each]).sum(dim=0), torch.stack([loss * weight for loss, weight in each]).sum(dim=0)


def _average(network: nn.Module, decay: float | None) -> AveragedModel | None:
    if decay is None:
        return None
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)  # type: ignore[no-untyped-call]
