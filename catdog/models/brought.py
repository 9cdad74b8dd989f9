"""build: the networks that other installed packages bring along, by entry points of the group catdog.models.

    [project.entry-points."catdog.models"]
    mine = "my_package.networks:Mine"        # Mine(labels: int, image_size: int) -> nn.Module

N images, S side, C labels. Such a network takes normalised images (N, 3, S, S) float. What it returns says what it is: (N, C) are logits,
any other (N, F) are features, on which catdog puts a linear layer.
"""

from importlib.metadata import entry_points

import torch
from torch import Tensor, nn

from catdog.catalogue import GROUP
from catdog.errors import BadConfig


def build(name: str, *, labels: int, image_size: int) -> tuple[nn.Module, int]:
    """The network, in training mode, and how many numbers it returns of an image.

    Raises:
        BadConfig: it cannot be imported or built, takes no such images, or returns something else.
    """
    entry = next(iter(entry_points(group=GROUP, name=name)))
    where = f"{name} ({entry.value})"
    try:
        network = entry.load()(labels=labels, image_size=image_size)
    except Exception as error:
        raise _wrong(
            f"Expected a network that can be built. Received: {where}, which raises {type(error).__name__}: {str(error)[:500]}.",
            "Its package must be installed with all it needs, and be called with labels= and image_size=.",
        ) from error
    if not isinstance(network, nn.Module):
        raise _wrong(f"Expected a torch.nn.Module. Received: {where}, which gives a {type(network).__name__}.", "Return the network.")
    return network.train(), _outputs(network, image_size, where)


def _outputs(network: nn.Module, image_size: int, where: str) -> int:
    try:
        with torch.no_grad():
            answer = network.eval()(torch.zeros((2, 3, image_size, image_size)))
    except Exception as error:
        raise _wrong(
            f"Expected a network that takes images of {image_size} pixels. Received: {where}, which raises {type(error).__name__}: "
            f"{str(error)[:500]}.", "Set image_size to what it is made for.",
        ) from error
    if not isinstance(answer, Tensor) or answer.ndim != 2 or len(answer) != 2 or not answer.is_floating_point():
        shape = f"a tensor {tuple(answer.shape)} {answer.dtype}" if isinstance(answer, Tensor) else f"a {type(answer).__name__}"
        raise _wrong(
            f"Expected logits or features (2, numbers) of two images. Received, from {where}: {shape}.",
            "Let forward return one float tensor with a row for each image.",
        )
    network.train()
    return answer.shape[1]


def _wrong(message: str, remedy: str) -> BadConfig:
    return BadConfig(message, field="model", remedy=remedy)
