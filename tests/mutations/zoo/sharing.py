"""Weights that are used twice, made of others, or not to be found where one would look for them."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional
from torch.nn.utils import parametrizations

from catdog.doctor import Intent, Patient
from tests.mutations.zoo import pictures
from tests.mutations.zoo.attention import Block, Patches
from tests.mutations.zoo.healthy import Healthy, Small, healthy, patient, small_batch


class Siamese(nn.Module):
    """Are two pictures (N, 2, 3, S, S) of one kind? One stem looks at both."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = Small(outputs=16), nn.Linear(16, 2)

    def forward(self, pairs: Tensor) -> Tensor:
        logits: Tensor = self.head((self.stem(pairs[:, 0]) - self.stem(pairs[:, 1])).abs())
        return logits


@healthy("19 siamese", "one stem is called twice a step, and its statistics move twice", quick=True)
def siamese(seed: int) -> Patient:
    images, target = pictures.striped(seed)
    others, same = pictures.striped(seed + 1000, images=16)[0], torch.tensor([0, 0, 1, 1, 0, 0, 1, 1])
    wanted = torch.where(same == 1, target, 1 - target)
    return patient(Siamese(), (torch.stack((images, others[2 * torch.arange(8) + wanted]), 1), same))


class Tied(nn.Module):
    """Draws the patches again with the weights that read them."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(192, width), nn.Linear(width, 192)
        self.turned, self.head = nn.Linear(192, width, bias=False), nn.Linear(width, 2)
        self.turned.weight = self.encoder.weight

    def forward(self, images: Tensor) -> Any:
        patches = functional.unfold(images, 8, stride=8).transpose(1, 2)
        code = torch.relu(self.encoder(patches) + self.turned(patches.flip(2)))
        logits = self.head(code.mean(1))
        return {"logits": logits, "error": (self.decoder(code) - patches).square().mean((1, 2))}


def _with_drawing(outputs: Any, target: Tensor) -> Tensor:
    drawing: Tensor = outputs["error"].mean()
    return functional.cross_entropy(outputs["logits"], target) + 0.1 * drawing


@healthy("41 tied weights, declared", "one parameter under two names")
def tied(seed: int) -> Patient:
    return patient(Tied(), small_batch(seed), _with_drawing, intent=Intent(ties=(("encoder.weight", "turned.weight"),)))


@healthy("41b weight_norm and spectral_norm", "the weight is no parameter; buffers change in every training pass")
def parametrised(seed: int) -> Patient:
    model = Small()
    for layer in (model.features[0], model.features[4]):
        parametrizations.spectral_norm(layer)
    for layer in (model.features[8], model.head):
        parametrizations.weight_norm(layer)
    return patient(model, small_batch(seed))


class Signed(nn.Module):
    """Weights of 1 and -1, trained as if they were not rounded (Bengio et al. 2013, https://arxiv.org/abs/1308.3432)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.patches, self.norm, self.head = Patches(width), nn.BatchNorm1d(width), nn.Linear(width, 2)
        self.weight = nn.Parameter(0.1 * torch.randn(width, width))

    def forward(self, images: Tensor) -> Tensor:
        weight = self.weight + (self.weight.sign() * self.weight.abs().mean() - self.weight).detach()
        logits: Tensor = self.head(torch.relu(self.norm(self.patches(images).mean(1) @ weight.t())))
        return logits


@healthy("42 straight-through estimator", "a detach in the middle, and a gradient that is not the derivative", quick=True)
def signed(seed: int) -> Patient:
    return patient(Signed(), small_batch(seed))


class Swish(torch.autograd.Function):
    """x sigmoid(x), with a backward of its own that keeps only x."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        share = torch.sigmoid(x)
        made: Tensor = gradient * share * (1 + x * (1 - share))
        return made


class Own(nn.Module):
    """An activation of one's own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, stride=2), nn.Conv2d(16, 16, 3, stride=2)
        self.head = nn.Linear(16, 2)

    def forward(self, images: Tensor) -> Tensor:
        x: Tensor = Swish.apply(self.second(Swish.apply(self.first(images))))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


@healthy("42b a Function of one's own", "autograd does not know what is inside")
def own_function(seed: int) -> Patient:
    return patient(Own(), small_batch(seed))


class Albert(nn.Module):
    """One block, called four times (Lan et al. 2019, https://arxiv.org/abs/1909.11942)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.patches, self.block, self.head = Patches(width), Block(width), nn.Linear(width, 2)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images)
        for _ in range(4):
            x = self.block(x)
        logits: Tensor = self.head(x.mean(1))
        return logits


@healthy("one block four times", "a network of four layers with the parameters of one")
def albert(seed: int) -> Patient:
    return patient(Albert(), small_batch(seed))


class Standardised(nn.Module):
    """Its convolution is never called: its weight is standardised and used (Qiao et al. 2019, https://arxiv.org/abs/1903.10520)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, width, 3, stride=2), nn.GroupNorm(4, width), nn.Linear(width, 2)

    def forward(self, images: Tensor) -> Tensor:
        weight = self.conv.weight
        weight = (weight - weight.mean((1, 2, 3), keepdim=True)) / (weight.std((1, 2, 3), keepdim=True) + 1e-5)
        x = functional.conv2d(images, weight, self.conv.bias, stride=2)
        logits: Tensor = self.head(torch.relu(self.norm(x)).mean((2, 3)))
        return logits


@healthy("standardised weights", "a module that is never called, whose weight is used")
def standardised(seed: int) -> Patient:
    return patient(Standardised(), small_batch(seed))


class Fourier(nn.Module):
    """Multiplies a picture's frequencies with learnt complex numbers."""

    def __init__(self, side: int = 32) -> None:
        super().__init__()
        self.filters = nn.Parameter(torch.ones(3, side, side // 2 + 1, dtype=torch.complex64))
        self.rest = Small()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.rest(torch.fft.irfft2(torch.fft.rfft2(images) * self.filters))
        return logits


@healthy("complex parameters", "a parameter that is no float")
def fourier(seed: int) -> Patient:
    return patient(Fourier(), small_batch(seed))


CONFIGURATIONS: tuple[Healthy, ...] = (
    siamese, tied, parametrised, signed, own_function, albert, standardised, fourier,
)
