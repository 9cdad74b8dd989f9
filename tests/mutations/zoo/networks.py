"""Every classification network of torchvision, and every one of catdog's catalogue, at the smallest size it takes."""

from functools import partial
from typing import Any

import torch
import torchvision
from torch import nn
from torch.optim import SGD

from catdog.catalogue import NETWORKS
from catdog.doctor import Patient
from catdog.models import build
from tests.mutations.zoo import pictures
from tests.mutations.zoo.healthy import Healthy, patient

SEVERAL = 4
"""Images: few, and enough for statistics of batches."""


def _of_torchvision(name: str, seed: int) -> Patient:
    options: dict[str, Any] = {"num_classes": 2}
    side = NETWORKS[name].smallest
    if name.startswith("vit"):
        options["image_size"] = side
    elif name == "maxvit_t":
        options["input_size"] = (side, side)
    elif name in ("googlenet", "inception_v3"):
        options |= {"init_weights": False, "aux_logits": False}  # which need more pixels; convolutions.py has them
    model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return patient(model, pictures.striped(seed, images=SEVERAL, side=side), optimizer=SGD(model.parameters(), lr=0.01))


def _of_catalogue(name: str, seed: int) -> Patient:
    side = NETWORKS[name].smallest
    model = build(name, labels=pictures.LABELS, weights="none", image_size=side, weights_folder=None)
    images, target = pictures.striped(seed, images=SEVERAL, side=side)
    pixels = (127.5 + 50 * images).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    return patient(model, (pixels, target), optimizer=SGD(model.parameters(), lr=0.01))


def networks() -> tuple[Healthy, ...]:
    """First the small ones."""
    names = sorted(torchvision.models.list_models(module=torchvision.models), key=lambda name: NETWORKS[name].parameters)
    ours = sorted(NETWORKS, key=lambda name: NETWORKS[name].parameters)
    return (
        *(Healthy(f"torchvision {name}", "none", partial(_of_torchvision, name)) for name in names),
        *(Healthy(f"catalogue {name}", "none", partial(_of_catalogue, name)) for name in ours),
    )
