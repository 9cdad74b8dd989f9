"""Networks of convolutions, most of them torchvision's own."""

from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, RMSprop
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.checkpoint import checkpoint

from catdog.doctor import Intent, Patient
from tests.mutations.zoo import pictures
from tests.mutations.zoo.healthy import Healthy, healthy, patient, rates, scheduled, small_batch

WARM_UP = 5
"""Steps."""


def torchvision_network(name: str, **options: Any) -> nn.Module:
    network: nn.Module = torchvision.models.get_model(name, weights=None, **{"num_classes": 2} | options)
    return network


def _warming_up(optimizer: torch.optim.Optimizer) -> LambdaLR:
    return LambdaLR(optimizer, lambda step: min(step / WARM_UP, 1.0))


@healthy("01 resnet18, warm-up from 0", "no update at step 0; a learning rate of 0.1")
def resnet18_warming_up(seed: int) -> Patient:
    model = torchvision_network("resnet18")
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    scheduler = _warming_up(optimizer)
    return patient(
        model, small_batch(seed), optimizer=optimizer, scheduler=scheduler, step=scheduled(scheduler),
        schedule=rates(_warming_up, lr=0.1, steps=200),
    )


@healthy("02 resnet50, zero_init_residual", "the last normalisation of every block is zero, and all before it without gradient")
def resnet50_zero(seed: int) -> Patient:
    model = torchvision_network("resnet50", zero_init_residual=True)
    return patient(model, small_batch(seed), optimizer=SGD(model.parameters(), lr=0.05, momentum=0.9))


@healthy("04 convnext_tiny", "LayerScale of 1e-6, stochastic depth")
def convnext(seed: int) -> Patient:
    return patient(torchvision_network("convnext_tiny"), small_batch(seed))


@healthy("05 efficientnet_b0", "stochastic depth by row, dropout, squeeze and excitation, SiLU")
def efficientnet(seed: int) -> Patient:
    model = torchvision_network("efficientnet_b0")
    return patient(model, small_batch(seed), optimizer=RMSprop(model.parameters(), lr=1e-3, momentum=0.9))


@healthy("06 mobilenet_v3_small", "hardswish and hardsigmoid are flat in places")
def mobilenet(seed: int) -> Patient:
    return patient(torchvision_network("mobilenet_v3_small"), small_batch(seed))


def _with_auxiliary(outputs: Any, target: Tensor) -> Tensor:
    if isinstance(outputs, Tensor):  # in evaluation
        return functional.cross_entropy(outputs, target)
    return functional.cross_entropy(outputs.logits, target) + 0.4 * functional.cross_entropy(outputs.aux_logits, target)


@healthy("07 inception_v3, auxiliary loss", "returns a named tuple, and only in training")
def inception(seed: int) -> Patient:
    model = torchvision_network("inception_v3", aux_logits=True, init_weights=False)
    return patient(model, small_batch(seed, images=4, side=299), _with_auxiliary, intent=Intent())


def _main_alone(outputs: Any, target: Tensor) -> Tensor:
    return functional.cross_entropy(outputs if isinstance(outputs, Tensor) else outputs.logits, target)


@healthy("08 googlenet, main loss only", "auxiliary heads are returned and not in the loss", allowed=("M04",))
def googlenet(seed: int) -> Patient:
    model = torchvision_network("googlenet", aux_logits=True, init_weights=False)
    return patient(model, small_batch(seed, side=32), _main_alone)


@healthy("09 densenet121, memory_efficient", "its graph is cut at checkpoints")
def densenet(seed: int) -> Patient:
    return patient(torchvision_network("densenet121", memory_efficient=True), small_batch(seed, images=4))


class Checkpointed(nn.Module):
    """A ResNet whose stages are computed again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.network: Any = torchvision_network("resnet18")

    def forward(self, images: Tensor) -> Tensor:
        network = self.network
        x = network.maxpool(network.relu(network.bn1(network.conv1(images))))
        for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
            x = checkpoint(stage, x, use_reentrant=True)
        logits: Tensor = network.fc(network.avgpool(x).flatten(1))
        return logits


@healthy("10 resnet18, reentrant checkpoints", "no parameter of a stage is in the graph before the backward")
def checkpointed(seed: int) -> Patient:
    return patient(Checkpointed(), small_batch(seed))


@healthy("11 shufflenet_v2_x0_5", "half of the channels pass through untouched")
def shufflenet(seed: int) -> Patient:
    return patient(torchvision_network("shufflenet_v2_x0_5"), small_batch(seed))


class Grouped(nn.Module):
    """Normalised by groups of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.GroupNorm(4, 16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.GroupNorm(8, 32), nn.ReLU(),
        )
        self.head = nn.Linear(32, 2)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images).mean((2, 3)))
        return logits


@healthy("21 GroupNorm, one image a batch", "only one label is in the batch", quick=True)
def grouped(seed: int) -> Patient:
    images, target = small_batch(seed, images=2)
    return patient(Grouped(), (images[seed % 2 :][:1], target[seed % 2 :][:1]))


@healthy("25 grey pictures in three channels", "all channels are equal")
def grey(seed: int) -> Patient:
    images, target = pictures.striped(seed, channels=1)
    return patient(torchvision_network("resnet18"), (images.repeat(1, 3, 1, 1), target))


@healthy("26 one channel, dark pictures", "values in 0.02 to 0.08 before they are normalised with their own mean and deviation")
def dark(seed: int) -> Patient:
    images, target = pictures.striped(seed, channels=1)
    images = (0.05 + 0.01 * images).clamp(0, 1)
    model = torchvision_network("resnet18")
    model.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    return patient(model, ((images - 0.05) / 0.011, target))


class UNet(nn.Module):
    """A classifier that goes down, comes up again, and uses both."""

    def __init__(self) -> None:
        super().__init__()
        self.start = self._block(3, 8)
        self.down1, self.down2 = self._block(8, 16), self._block(16, 32)
        self.up1, self.up2 = self._block(48, 16), self._block(24, 8)
        self.head = nn.Linear(8, 2)

    @staticmethod
    def _block(given: int, made: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(given, made, 3, padding=1, bias=False), nn.BatchNorm2d(made), nn.LeakyReLU(0.1, inplace=True))

    def forward(self, images: Tensor) -> Tensor:
        x0 = self.start(images)
        x1 = self.down1(functional.max_pool2d(x0, 2))
        x2 = self.down2(functional.max_pool2d(x1, 2))
        y1 = self.up1(torch.cat((functional.interpolate(x2, scale_factor=2), x1), 1))
        y0 = self.up2(torch.cat((functional.interpolate(y1, scale_factor=2), x0), 1))
        logits: Tensor = self.head(y0.mean((2, 3)))
        return logits


@healthy("a U-Net that uses its decoder", "skips, concatenations, activations in place")
def unet(seed: int) -> Patient:
    return patient(UNet(), small_batch(seed))


CONFIGURATIONS: tuple[Healthy, ...] = (
    resnet18_warming_up, resnet50_zero, convnext, efficientnet, mobilenet, inception, googlenet, densenet, checkpointed, shufflenet,
    grouped, grey, dark, unet,
)
