"""Networks of which a part is not trained, or not used, on purpose."""

import copy
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, Self

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from catdog.doctor import Intent, Patient
from catdog.doctor.patient import Batch, Loss, usual_step
from tests.mutations.zoo.attention import Patches
from tests.mutations.zoo.convolutions import torchvision_network
from tests.mutations.zoo.healthy import Healthy, Small, healthy, patient, small_batch


class Probe(nn.Module):
    """A head on a backbone that stays as it is, its statistics too."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = torchvision_network("resnet18")
        self.backbone.fc = nn.Identity()
        self.head = nn.Linear(512, 2)
        self.backbone.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.backbone(images)
        logits: Tensor = self.head(features)
        return logits


def read_from_file(model: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """The weights as a file would have them: of the model without its head."""
    heads = ("head.", "fc.")
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if name.startswith(prefix) and not name.startswith(heads)}


@healthy("13 linear probe", "the backbone has no gradient and stays in evaluation mode")
def probe(seed: int) -> Patient:
    model = Probe().train()
    intent = Intent(
        trainable=("head.*",), loss="cross_entropy", freeze_strict=True, pretrained=read_from_file(model, "backbone."),
    )
    return patient(model, small_batch(seed), optimizer=AdamW(model.head.parameters(), lr=1e-2), intent=intent)


def only(model: nn.Module, patterns: Sequence[str]) -> list[nn.Parameter]:
    """Let only these parameters require a gradient; returns them."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(fnmatchcase(name, pattern) for pattern in patterns))
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@healthy("14 frozen backbone, statistics moving", "normalisations of what is frozen stay in training mode", allowed=("L11",))
def moving_statistics(seed: int) -> Patient:
    model = torchvision_network("resnet18")
    return patient(
        model, small_batch(seed), optimizer=SGD(only(model, ("fc.*",)), lr=0.1, momentum=0.9),
        intent=Intent(trainable=("fc.*",), loss="cross_entropy"),
    )


@healthy("15 last stage and head, two learning rates", "most parameters have no gradient and are in no group")
def last_stage(seed: int) -> Patient:
    model: Any = torchvision_network("resnet18")
    pretrained = read_from_file(model)
    patterns = ("layer4.*", "fc.*")
    only(model, patterns)
    frozen = [model.bn1, model.layer1, model.layer2, model.layer3]

    def step(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> Tensor:
        model.train()
        for module in frozen:
            module.eval()
        return usual_step(model, batch, loss, optimizer)

    for module in frozen:
        module.eval()
    optimizer = AdamW([{"params": model.layer4.parameters(), "lr": 1e-4}, {"params": model.fc.parameters()}], lr=1e-3)
    intent = Intent(trainable=patterns, loss="cross_entropy", pretrained=pretrained)
    return patient(model, small_batch(seed), optimizer=optimizer, step=step, intent=intent)


@healthy("16 normalisations alone", "99 of 100 parameters are not trained")
def normalisations(seed: int) -> Patient:
    model = torchvision_network("resnet18")
    patterns = ("*bn*", "*downsample.1.*", "fc.*")
    optimizer = SGD(only(model, patterns), lr=0.05, momentum=0.9)
    return patient(model, small_batch(seed), optimizer=optimizer, intent=Intent(trainable=patterns, loss="cross_entropy"))


class Taught(nn.Module):
    """A student, and the teacher that follows it."""

    def __init__(self) -> None:
        super().__init__()
        self.student = Small(dropout=0.2)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    def forward(self, images: Tensor) -> Any:
        logits = self.student(images)
        if not self.training:
            return logits
        with torch.no_grad():
            wanted = self.teacher(images)
        return {"logits": logits, "wanted": wanted}

    @torch.no_grad()
    def follow(self) -> None:
        for mine, other in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            mine.lerp_(other, 0.01)


def _consistent(outputs: Any, target: Tensor) -> Tensor:
    if isinstance(outputs, Tensor):
        return functional.cross_entropy(outputs, target)
    agreement = functional.mse_loss(outputs["logits"].softmax(1), outputs["wanted"].softmax(1))
    return functional.cross_entropy(outputs["logits"], target) + agreement


@healthy("18 a teacher inside the network", "a copy without gradient, changed by every step", quick=True)
def teacher(seed: int) -> Patient:
    model = Taught()

    def step(network: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> Tensor:
        value = usual_step(network, batch, loss, optimizer)
        model.follow()
        return value

    return patient(model, small_batch(seed), _consistent, step=step, intent=Intent(trainable=("student.*",)))


@healthy("18b an average that only the step knows", "the step changes what is no part of the network")
def average(seed: int) -> Patient:
    model = Small()
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99))  # type: ignore[no-untyped-call]

    def step(network: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> Tensor:
        value = usual_step(network, batch, loss, optimizer)
        averaged.update_parameters(network)
        return value

    return patient(model, small_batch(seed), step=step)


class Truncated(torchvision.models.ResNet):  # type: ignore[misc]
    """The first three stages of a pretrained network; what is behind them came with it."""

    def __init__(self) -> None:
        super().__init__(torchvision.models.resnet.BasicBlock, [2, 2, 2, 2])
        self.head = nn.Linear(256, 2)

    def forward(self, images: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


@healthy("20 truncated encoder", "the last stage and the old head are never called", allowed=("M02",))
def truncated(seed: int) -> Patient:
    return patient(Truncated(), small_batch(seed))


@healthy("20b truncated encoder, declared", "never called, and nobody shall hear of it")
def waived(seed: int) -> Patient:
    return patient(Truncated(), small_batch(seed), intent=Intent(loss="cross_entropy", unused_ok=("layer4", "fc")))


class Adapted(nn.Module):
    """A linear layer that stays as it is, and a narrow one beside it (Hu et al. 2021, https://arxiv.org/abs/2106.09685)."""

    def __init__(self, base: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lower = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.upper = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.base(x) + x @ self.lower.t() @ self.upper.t()
        return made


class LowRank(nn.Module):
    """Trained are adapters and the head."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.patches = Patches(width).requires_grad_(False)
        self.first, self.second = (Adapted(nn.Linear(width, width)) for _ in range(2))
        self.head = nn.Linear(width, 2)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images)
        logits: Tensor = self.head(self.second(functional.gelu(self.first(x))).mean(1))
        return logits


@healthy("low-rank adapters", "half of what is trained has no gradient at step 0")
def low_rank(seed: int) -> Patient:
    patterns = ("*lower", "*upper", "head.*")
    return patient(LowRank(), small_batch(seed), intent=Intent(trainable=patterns, loss="cross_entropy"))


class Prompted(nn.Module):
    """Learnt tokens before a frozen encoder."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 4, dim_feedforward=64, dropout=0.0, batch_first=True)
        self.patches, self.encoder = Patches(width), nn.TransformerEncoder(layer, 2)
        self.requires_grad_(False)
        self.prompt, self.head = nn.Parameter(0.1 * torch.randn(1, 4, width)), nn.Linear(width, 2)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images)
        tokens = torch.cat((self.prompt.expand(len(tokens), -1, -1), tokens), 1)
        logits: Tensor = self.head(self.encoder(tokens)[:, 0])
        return logits


@healthy("learnt prompts before a frozen encoder", "the gradient goes through modules that are not trained")
def prompted(seed: int) -> Patient:
    return patient(Prompted(), small_batch(seed), intent=Intent(trainable=("prompt", "head.*"), loss="cross_entropy"))


CONFIGURATIONS: tuple[Healthy, ...] = (
    probe, moving_statistics, last_stage, normalisations, teacher, average, truncated, waived, low_rank, prompted,
)
