"""build: torchvision's classification networks as backbones. We read their weights ourselves; torchvision never downloads.

Everything that is special about a family stands here: auxiliary outputs, old names in weights files, a head that is no linear layer.
"""

import re
from pathlib import Path
from typing import Any

import torchvision
from torch import Tensor, nn

from catdog.models import states

# Weights files of DenseNet are older than the rule that a module's name holds no dot: norm.1 is now norm1.
_DENSENET_DOT = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.(?=[12]\.)")
# Outputs beside the real one that helped GoogLeNet and Inception through their first training; we build them without.
_AUXILIARY = re.compile(r"^(aux1|aux2|AuxLogits)\.")


def build(name: str, *, family: str, image_size: int, pretrained: Path | None) -> tuple[nn.Module, int]:
    """The backbone, without its last linear layer, and its number of features.

    Raises:
        WeightsUnavailable: the file does not fit.
    """
    options: dict[str, Any] = {}
    if family == "vit":
        options["image_size"] = image_size
    elif family == "maxvit":
        options["input_size"] = (image_size, image_size)
    elif family in ("googlenet", "inception"):
        options |= {"aux_logits": False, "init_weights": pretrained is None}
    network: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    if pretrained is not None:
        states.load(network, _renamed(states.read(pretrained)), source=pretrained)
    if family == "squeezenet":
        return _without_convolution(network)
    return _without_head(network)


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Old names to new ones, in place: a state dict carries version marks that a copy would lose (MNASNet, ViT)."""
    for name in list(state):
        if _AUXILIARY.match(name):
            del state[name]
        elif _DENSENET_DOT.search(name):
            state[_DENSENET_DOT.sub(r"\1", name)] = state.pop(name)
    return state


def _without_head(network: nn.Module) -> tuple[nn.Module, int]:
    """Let the last linear layer pass its input through; everywhere but in SqueezeNet it is the head."""
    path, head = [(path, module) for path, module in network.named_modules() if isinstance(module, nn.Linear)][-1]
    network.set_submodule(path, nn.Identity(), strict=True)
    return network, head.in_features


def _without_convolution(network: nn.Module) -> tuple[nn.Module, int]:
    """SqueezeNet's head is a 1x1 convolution before global pooling: pool what it saw instead, and leave the rest to a linear layer."""
    dropout, head = network.get_submodule("classifier.0"), network.get_submodule("classifier.1")
    features: int = head.in_channels  # type: ignore[assignment]
    network.set_submodule("classifier", nn.Sequential(nn.AdaptiveAvgPool2d(1), dropout), strict=True)
    return network, features
