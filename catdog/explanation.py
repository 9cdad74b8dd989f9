"""class_activation, overlay: where in a picture an answer comes from.

Where a network ends in global pooling and one linear layer, a logit is the mean over all places of what each place says for its label, and
so the same forward pass shows where it comes from (Zhou et al. 2016, https://arxiv.org/abs/1512.04150). F features, C labels, maps (h, w).
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LIGHT = np.array([255, 176, 0], np.float32)
"""What is laid over the places that speak for the label: amber, which colour-blind people tell from fur, grass and sky."""
STRENGTH = 0.65
"""Of the light where most is said; nothing is laid where nothing is."""


def class_activation(activation: NDArray[np.float32], head: NDArray[np.float32], target: int) -> NDArray[np.float32]:
    """How much each place speaks for a label: activation (F, h, w), head (C, F) -> (h, w) float32, 0 to 1.

    Less what it says for all labels alike, of which no softmax knows; what speaks against it counts as nothing.
    """
    for_label = head[target] - head.mean(axis=0)
    places = np.maximum(np.tensordot(for_label, activation, axes=1), 0.0)
    return np.asarray(places / max(float(places.max()), 1e-12), dtype=np.float32)


def overlay(pixels: NDArray[np.uint8], places: NDArray[np.float32]) -> bytes:
    """Light on what spoke for the label, over the pixels (S, S, 3) uint8 that the network saw: a PNG. `places` (h, w), 0 to 1."""
    height, width = pixels.shape[:2]
    light = np.asarray(Image.fromarray(places).resize((width, height), Image.Resampling.BICUBIC))
    share = STRENGTH * np.clip(light, 0.0, 1.0)[..., np.newaxis]
    file = io.BytesIO()
    Image.fromarray((pixels * (1 - share) + LIGHT * share).round().astype(np.uint8)).save(file, "PNG")
    return file.getvalue()
