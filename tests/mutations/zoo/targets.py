"""Losses other than cross entropy of two logits, and targets other than a number."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from catdog.doctor import Intent, Patient
from catdog.doctor.patient import Batch, Loss
from tests.mutations.zoo import pictures
from tests.mutations.zoo.healthy import Healthy, Small, healthy, patient, small_batch


def mixed(batch: Batch, *, cut: bool) -> Batch:
    """Every image with the one behind it: blended, or a corner of the one in the other. Targets (N, 2) are shares."""
    images, target = batch
    other, wanted = images.roll(1, 0), functional.one_hot(target, 2).float()
    share = float(torch.distributions.Beta(0.4, 0.4).sample())
    if cut:
        edge = int(images.shape[-1] * (1 - share) ** 0.5)
        images = images.clone()
        images[..., :edge, :edge] = other[..., :edge, :edge]
        share = 1 - edge**2 / images.shape[-1] ** 2
    else:
        images = share * images + (1 - share) * other
    return images, share * wanted + (1 - share) * wanted.roll(1, 0)


@healthy("27 eight images a label, mixup and cutmix", "soft targets that no image has", quick=True)
def mixing(seed: int) -> Patient:
    def step(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> Tensor:
        images, target = mixed(batch, cut=bool(torch.rand(()) < 0.5))
        optimizer.zero_grad()
        value = loss(model(images), target)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return value

    return patient(Small(), small_batch(seed, images=16), step=step)


@healthy("28 label smoothing, dropout of a half", "the training loss is far above the validation loss")
def smoothing(seed: int) -> Patient:
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    return patient(Small(dropout=0.5), small_batch(seed), loss, intent=Intent(loss="cross_entropy", label_smoothing=0.1))


@healthy("32 one logit, BCEWithLogits", "one output for two labels")
def one_logit(seed: int) -> Patient:
    criterion = nn.BCEWithLogitsLoss()
    return patient(
        Small(outputs=1), small_batch(seed), lambda outputs, target: criterion(outputs.squeeze(1), target.float()),
        intent=Intent(loss="bce_with_logits"),
    )


class Ending(nn.Module):
    """A network and what is behind its logits."""

    def __init__(self, outputs: int, *ending: nn.Module) -> None:
        super().__init__()
        self.network, self.ending = Small(outputs=outputs), nn.Sequential(*ending)

    def forward(self, images: Tensor) -> Tensor:
        answers: Tensor = self.ending(self.network(images))
        return answers


def _evaluate_shares(model: nn.Module, batches: Iterable[Batch], loss: Loss) -> Mapping[str, float]:
    """As healthy.evaluate, for a network that answers with one probability."""
    training = model.training
    model.eval()
    total, hits, images = 0.0, 0, 0
    with torch.no_grad():
        for inputs, target in batches:
            outputs = model(inputs)
            total += float(loss(outputs, target)) * len(target)
            hits += int(((outputs.flatten() > 0.5) == target).sum())
            images += len(target)
    model.train(training)
    return {"loss": total / images, "accuracy": hits / images}


@healthy("33 sigmoid and BCELoss", "an activation at the end")
def shares(seed: int) -> Patient:
    model = Ending(1, nn.Sigmoid(), nn.Flatten(0))
    return patient(
        model, small_batch(seed), lambda outputs, target: functional.binary_cross_entropy(outputs, target.float()),
        intent=Intent(loss="bce"), evaluate=_evaluate_shares,
    )


@healthy("34 log_softmax and NLLLoss", "an activation at the end", quick=True)
def log_shares(seed: int) -> Patient:
    return patient(Ending(2, nn.LogSoftmax(dim=1)), small_batch(seed), nn.NLLLoss(), intent=Intent(loss="nll"))


def focal(outputs: Tensor, target: Tensor) -> Tensor:
    """Lin et al. 2017, https://arxiv.org/abs/1708.02002, gamma 2."""
    losses = functional.cross_entropy(outputs, target, reduction="none")
    return ((1 - (-losses).exp()).square() * losses).mean()


@healthy("focal loss", "hardly any gradient from what is right already")
def focused(seed: int) -> Patient:
    return patient(Small(), small_batch(seed), focal, intent=Intent())


@healthy("five labels", "more outputs than labels in the batch of four")
def five(seed: int) -> Patient:
    images, target = pictures.striped(seed, images=10, labels=5)
    return patient(Small(outputs=5), (images[seed % 5 :][:4], target[seed % 5 :][:4]))


@healthy("several labels an image", "targets (N, 3) of 0 and 1, none of which need be 1")
def several(seed: int) -> Patient:
    images, target = small_batch(seed)
    wanted = torch.stack((target, images.mean((1, 2, 3)) > 0, images[:, 0].mean((1, 2)) > images[:, 1].mean((1, 2))), 1).float()

    return patient(Small(outputs=3), (images, wanted), nn.BCEWithLogitsLoss(), intent=Intent(loss="bce_with_logits"), evaluate=_mean_loss)


def _mean_loss(model: nn.Module, batches: Iterable[Batch], loss: Loss) -> Mapping[str, float]:
    training, total, images = model.training, 0.0, 0
    model.eval()
    with torch.no_grad():
        for inputs, target in batches:
            total += float(loss(model(inputs), target)) * len(target)
            images += len(target)
    model.train(training)
    return {"loss": total / images}


@healthy("distilled from soft targets", "targets are probabilities of a larger network")
def distilled(seed: int) -> Patient:
    images, target = small_batch(seed)
    wanted = (2.0 * functional.one_hot(target, 2) + torch.randn(8, 2)).softmax(1)

    def divergence(outputs: Tensor, wanted: Tensor) -> Tensor:
        return functional.kl_div(outputs.log_softmax(1), wanted, reduction="batchmean")

    return patient(Small(), (images, wanted), divergence, intent=Intent(), evaluate=_mean_loss)


@healthy("a loss an image, averaged by the step", "the loss is no single number")
def one_each(seed: int) -> Patient:
    def step(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> Any:
        losses = loss(model(batch[0]), batch[1])
        optimizer.zero_grad(set_to_none=True)
        losses.mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return losses.detach()

    def measured(model: nn.Module, batches: Iterable[Batch], loss: Loss) -> Mapping[str, float]:
        return _mean_loss(model, batches, lambda outputs, target: loss(outputs, target).mean())

    intent = Intent(loss="cross_entropy", reduction="none")
    return patient(Small(), small_batch(seed), nn.CrossEntropyLoss(reduction="none"), step=step, intent=intent, evaluate=measured)


class Angles(nn.Module):
    """Logits are cosines times a learnt scale: rows of the head have no length (https://arxiv.org/abs/1801.07698, without its margin)."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.weight = Small(outputs=16), nn.Parameter(torch.randn(2, 16))
        self.scale = nn.Parameter(torch.tensor(16.0))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.scale * functional.normalize(self.network(images)) @ functional.normalize(self.weight).t()
        return logits


@healthy("cosines times a scale", "confident from the first step on")
def angles(seed: int) -> Patient:
    return patient(Angles(), small_batch(seed))


CONFIGURATIONS: tuple[Healthy, ...] = (
    mixing, smoothing, one_logit, shares, log_shares, focused, five, several, distilled, one_each, angles,
)
