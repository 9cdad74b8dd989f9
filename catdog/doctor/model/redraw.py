"""Weights, settle, seeded, answers, strangers, mode: the same network at other weights, other images and other random numbers.

What is zero, or equal, only because training begins there (a zero-initialised head, a gain of zero, a layer scale of 1e-6) is so no
longer at weights a step aside; what is so by the network's structure still is. N images.
"""

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from catdog.doctor.examination import CannotTell
from catdog.doctor.patient import tensors_in

RELATIVE, ABSOLUTE = 0.1, 0.01
"""Deviation of a draw: a share of its tensor's root mean square, and a part that tensors of zeros have as well; a trained weight of a
convolution is about 0.02."""
POOL = 65_537
"""Random numbers of a draw, used again from tensor to tensor: a prime, so that no row of a matrix is another's. It is for speed."""


class Weights:
    """The trainable weights of a network as it came, and draws around them. A visit puts the network back; so does `back`."""

    def __init__(self, network: nn.Module) -> None:
        """Keep them."""
        self._start = [
            (weight, weight.detach().clone()) for weight in network.parameters() if weight.requires_grad and weight.is_floating_point()
        ]

    @torch.no_grad()
    def draw(self, seed: int, *, flip: bool = False) -> None:
        """Set every weight to its start and a little noise; with `flip` after a throw for its sign, which no saturation outlives."""
        generator = torch.Generator().manual_seed(seed)
        pool = torch.randn(POOL, generator=generator)
        for weight, start in self._start:
            turned = pool.roll(int(torch.randint(POOL, (), generator=generator))).to(start)
            noise = turned.repeat(-(-start.numel() // POOL))[: start.numel()].view(start.shape)
            near = noise * (RELATIVE * start.square().mean().sqrt() + ABSOLUTE)
            weight.copy_(near.add_(start * noise.sign()) if flip else near.add_(start))

    @torch.no_grad()
    def back(self) -> None:
        """Set every weight to its start."""
        for weight, start in self._start:
            weight.copy_(start)


@torch.no_grad()
def settle(network: nn.Module, inputs: Tensor) -> None:
    """Give batch normalisation the statistics of these inputs, as a training would have: with those it starts from values may explode."""
    norms = [
        module for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats and module.training
    ]
    if norms:
        momenta = [module.momentum for module in norms]
        for module in norms:
            module.momentum = 1.0
        network(inputs)
        for module, momentum in zip(norms, momenta, strict=True):
            module.momentum = momentum


def seeded(seed: int) -> None:
    """Start every generator that a forward may draw from."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def returned(outputs: Any, images: int) -> list[Tensor]:
    """What a network answers: the floating point tensors among its outputs that have a row for each image."""
    return [one for one in tensors_in(outputs) if one.is_floating_point() and one.ndim and len(one) == images]


def answers(outputs: Any, images: int) -> Tensor:
    """(N, K): all that a network says of each image.

    Raises:
        CannotTell: it does not say something of each.
    """
    rows = [one.reshape(images, -1) for one in returned(outputs, images)]
    if not rows or not sum(row.shape[1] for row in rows):
        raise CannotTell("the network has no output with a row for each image")
    return torch.cat([row.to(rows[0].dtype) for row in rows], dim=1)


def strangers(inputs: Tensor, *, seed: int) -> Tensor:
    """Inputs of the same shape and values, each put together from values drawn out of all of them."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(inputs.numel(), inputs.shape, generator=generator).to(inputs.device)
    return inputs.detach().reshape(-1)[drawn.reshape(-1)].reshape(inputs.shape)


@contextmanager
def mode(network: nn.Module, *, training: bool) -> Iterator[None]:
    """The network in one mode, and its flags as they were behind it. What stood in evaluation by itself stays there in training."""
    flags = [(module, module.training) for module in network.modules()]
    with ExitStack() as stack:
        for module, flag in flags:
            stack.callback(setattr, module, "training", flag)
        if not training:
            network.eval()
        yield
