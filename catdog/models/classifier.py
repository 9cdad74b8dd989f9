"""Classifier, Normalise: what every network of catdog is, whatever its family.

N images, S side, C labels, F features:

    pixels (N, S, S, 3) uint8 --normalise--> (N, 3, S, S) float --backbone--> features (N, F) --head--> logits (N, C)

Normalisation is part of the network: it is saved, exported and served with the weights and cannot differ from training.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalise(nn.Module):
    """Pixels (N, H, W, 3) uint8 -> (N, 3, H, W) float32, less the mean and divided by the standard deviation of each channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """`mean` and `std` of red, green, blue are given in 0..1 and kept in 0..255, as buffers."""
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).mul(255).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).mul(255).view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalise a batch, row by row: over the three channels of each pixel alone ONNX Runtime takes twenty times as long."""
        images, height, width, channels = pixels.shape
        rows = pixels.to(self.mean.dtype).reshape(images, height, width * channels)
        normalised = (rows - self.mean.flatten().repeat(width)) / self.std.flatten().repeat(width)
        return normalised.reshape(pixels.shape).permute(0, 3, 1, 2)


class Classifier(nn.Module):
    """A network with one output per label. Its state dict has the prefixes normalise, backbone and head."""

    def __init__(self, normalise: Normalise, backbone: nn.Module, head: nn.Linear | nn.Identity) -> None:
        """`backbone` takes normalised images (N, 3, S, S) and gives the head's input (N, F), or logits where there is no head."""
        super().__init__()
        self.normalise = normalise
        self.backbone = backbone
        self.head = head

    def features(self, pixels: Tensor) -> Tensor:
        """What the head sees: pixels (N, S, S, 3) uint8 -> (N, F) float32."""
        features: Tensor = self.backbone(self.normalise(pixels))
        return features

    def forward(self, pixels: Tensor) -> Tensor:
        """One number per label, before any softmax: pixels (N, S, S, 3) uint8 -> logits (N, C) float32."""
        logits: Tensor = self.head(self.features(pixels))
        return logits
