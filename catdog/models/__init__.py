"""build, Classifier: the networks of the catalogue. One family per file; each gives a backbone and its number of features."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from catdog import catalogue
from catdog import weights as weights_files
from catdog.errors import BadConfig
from catdog.models import brought, lite, torchvision_networks, unet
from catdog.models.classifier import Classifier, Normalise

__all__ = ["Classifier", "build"]

# Without pretrained weights there is nothing to agree with: zero in the middle, one at the ends.
_PLAIN = (0.5, 0.5, 0.5)


def build(name: str, *, labels: Sequence[str], weights: str, image_size: int, weights_folder: Path | None) -> Classifier:
    """Build a network, in training mode, with one output per label.

    Random numbers come from torch's generator: the same torch.manual_seed gives the same network. Nothing is downloaded.

    Args:
        name: a name of the catalogue, or of a network that an installed package brings along.
        labels: at least two, in the order of the outputs.
        weights: imagenet (pretrained backbone, random head) or none (all random).
        image_size: side of the square it will see, in pixels.
        weights_folder: where fetched weights lie; None: only those of a registry package can be used.

    Raises:
        BadConfig: unknown name, a size it cannot take, fewer than two labels, a network of another package that does not do.
        WeightsUnavailable: the weights are not on this machine, or are not what the catalogue says. Nothing was built.
    """
    catalogue.check(name, weights=weights, image_size=image_size)
    if len(labels) < 2:
        raise BadConfig(f"Expected at least two labels. Received: {list(labels)}.", field="dataset")
    pretrained = weights_files.verified(name, weights_folder) if weights == "imagenet" else None
    network = catalogue.find(name)
    if network.family == catalogue.USER:
        whole, outputs = brought.build(name, labels=len(labels), image_size=image_size)
        return Classifier(Normalise(_PLAIN, _PLAIN), whole, nn.Identity() if outputs == len(labels) else nn.Linear(outputs, len(labels)))
    if network.family == "efficientnet_lite":
        backbone, features = lite.build(name, image_size=image_size, pretrained=pretrained)
    elif network.family == "unet":
        backbone, features = unet.build()
    else:
        backbone, features = torchvision_networks.build(name, family=network.family, image_size=image_size, pretrained=pretrained)
    if pretrained is not None and network.weights is not None:
        normalise = Normalise(network.weights.mean, network.weights.std)
    else:
        normalise = Normalise(_PLAIN, _PLAIN)
    return Classifier(normalise, backbone, nn.Linear(features, len(labels)))
