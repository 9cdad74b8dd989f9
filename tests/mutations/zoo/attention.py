"""Networks of attention, and those that leave layers out."""

import torch
import torchvision
from torch import Tensor, nn

from catdog.doctor import Patient
from tests.mutations.zoo.convolutions import torchvision_network
from tests.mutations.zoo.healthy import Healthy, healthy, patient, small_batch


@healthy("03 ViT, head of zeros", "all gradients of the encoder are exactly zero at step 0", quick=True)
def vit(seed: int) -> Patient:
    model = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=3, num_heads=4, hidden_dim=64, mlp_dim=128, num_classes=2,
    )
    return patient(model, small_batch(seed))


@healthy("12 swin_t", "stochastic depth; buffers of relative positions")
def swin(seed: int) -> Patient:
    return patient(torchvision_network("swin_t"), small_batch(seed))


class Block(nn.Module):
    """A residual one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.inside = nn.LayerNorm(width), nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inside(self.norm(x))


class Patches(nn.Module):
    """(N, 3, S, S) -> (N, T, width): 8 pixels a side each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, 8, stride=8)

    def forward(self, images: Tensor) -> Tensor:
        tokens: Tensor = self.embed(images).flatten(2).transpose(1, 2)
        return tokens


class LayerDrop(nn.Module):
    """Every layer is left out of half of the steps (Fan et al. 2019, https://arxiv.org/abs/1909.11556)."""

    def __init__(self, width: int = 32, layers: int = 6) -> None:
        super().__init__()
        self.patches, self.head = Patches(width), nn.Linear(width, 2)
        self.layers = nn.ModuleList(Block(width) for _ in range(layers))

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images)
        for layer in self.layers:
            if not self.training or torch.rand(()) >= 0.5:
                x = layer(x)
        logits: Tensor = self.head(x.mean(1))
        return logits


@healthy("17 LayerDrop 0.5", "half of the layers get no gradient in a step", quick=True)
def layer_drop(seed: int) -> Patient:
    return patient(LayerDrop(), small_batch(seed))


class Encoder(nn.Module):
    """torch's own transformer, whose evaluation goes another way than its training."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 4, dim_feedforward=64, dropout=0.1, batch_first=True)
        self.patches, self.head = Patches(width), nn.Linear(width, 2)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 17, width))

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images)
        tokens = torch.cat((self.token.expand(len(tokens), -1, -1), tokens), 1) + self.positions
        logits: Tensor = self.head(self.encoder(tokens)[:, 0])
        return logits


@healthy("torch's transformer with a class token", "evaluation takes a fused path; parameters of no module")
def encoder(seed: int) -> Patient:
    return patient(Encoder(), small_batch(seed))


class Experts(nn.Module):
    """Every image goes to the one expert that its router chooses."""

    def __init__(self, width: int = 32, experts: int = 3) -> None:
        super().__init__()
        self.patches, self.router, self.head = Patches(width), nn.Linear(width, experts), nn.Linear(width, 2)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.GELU()) for _ in range(experts))

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).mean(1)
        shares = (self.router(x) + (0.5 * torch.randn(len(x), len(self.experts)) if self.training else 0)).softmax(1)
        chosen = shares.argmax(1)
        made = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            if (mine := chosen == number).any():
                made[mine] = expert(x[mine]) * shares[mine, number, None]
        logits: Tensor = self.head(x + made)
        return logits


@healthy("a mixture of experts, one an image", "which expert gets a gradient depends on the batch")
def experts(seed: int) -> Patient:
    return patient(Experts(), small_batch(seed))


class ReZero(nn.Module):
    """Every block begins as nothing: its gate is zero (Bachlechner et al. 2020, https://arxiv.org/abs/2003.04887)."""

    def __init__(self, width: int = 32, layers: int = 3) -> None:
        super().__init__()
        self.patches, self.head = Patches(width), nn.Linear(width, 2)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)) for _ in range(layers))
        self.gates = nn.ParameterList(nn.Parameter(torch.zeros(())) for _ in range(layers))

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images)
        for gate, layer in zip(self.gates, self.layers, strict=True):
            x = x + gate * layer(x)
        logits: Tensor = self.head(x.mean(1))
        return logits


@healthy("ReZero", "gates of zero: no gradient behind them at step 0")
def rezero(seed: int) -> Patient:
    return patient(ReZero(), small_batch(seed))


class Rows(nn.Module):
    """Reads a picture row by row."""

    def __init__(self, side: int = 32, width: int = 24) -> None:
        super().__init__()
        self.reader = nn.LSTM(3 * side, width, num_layers=2, batch_first=True, bidirectional=True, dropout=0.1)
        self.head = nn.Linear(2 * width, 2)

    def forward(self, images: Tensor) -> Tensor:
        read, _ = self.reader(images.permute(0, 2, 1, 3).flatten(2))
        logits: Tensor = self.head(read.mean(1))
        return logits


@healthy("an LSTM over rows", "what it returns beside the answer goes nowhere; weights without modules")
def rows(seed: int) -> Patient:
    return patient(Rows(), small_batch(seed))


CONFIGURATIONS: tuple[Healthy, ...] = (vit, swin, layer_drop, encoder, experts, rezero, rows)
