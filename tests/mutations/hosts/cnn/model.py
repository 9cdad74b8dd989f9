"""Four convolutional layers with squeeze and excitation."""

import torch
import torch.nn.functional as F
from torch import nn


class SqueezeExcite(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.squeeze = nn.Linear(width, width // 4)
        self.excite = nn.Linear(width // 4, width)

    def forward(self, x):
        s = F.relu(self.squeeze(x.mean((2, 3))))
        s = torch.sigmoid(self.excite(s))
        return x * s[:, :, None, None]


class Stage(nn.Module):
    """Two convolutions and half the resolution."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride=2, padding=1)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.se = SqueezeExcite(outputs)

    def forward(self, x):
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(x)))
        return self.se(x)


class CNN(nn.Module):
    def __init__(self, labels, width=16):
        super().__init__()
        features = 4 * width
        self.stages = nn.ModuleList([Stage(3, width), Stage(width, features)])
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(features, labels)

    def forward(self, x):
        for stage in self.stages:
            x = stage(x)
        x = self.drop(x)
        f = x.mean((2, 3))
        return self.head(f)


def build(config):
    return CNN(len(config.labels))
