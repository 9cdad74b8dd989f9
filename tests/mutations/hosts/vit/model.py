"""A small vision transformer."""

import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, t):
        n = self.norm1(t)
        t = t + self.attention(n, n, n, need_weights=False)[0]
        return t + self.mlp(self.norm2(t))


class ViT(nn.Module):
    def __init__(self, labels, size, patch=8, features=64, heads=4):
        super().__init__()
        self.patches = nn.Conv2d(3, features, patch, stride=patch)
        self.position = nn.Parameter(0.02 * torch.randn(1, (size // patch) ** 2, features))
        self.blocks = nn.ModuleList(Block(features, heads) for _ in range(4))
        self.norm = nn.LayerNorm(features)
        self.head = nn.Linear(features, labels)

    def forward(self, x):
        t = self.patches(x)
        t = t.flatten(2).transpose(1, 2)
        t = t + self.position
        for block in self.blocks:
            t = block(t)
        f = self.norm(t).mean(1)
        return self.head(f)


def build(config):
    return ViT(len(config.labels), config.size)
