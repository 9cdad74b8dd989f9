"""ResNet-18, narrow, from weights in a file."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.branch = nn.Sequential(OrderedDict(
            conv1=nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            bn1=nn.BatchNorm2d(outputs),
            relu=nn.ReLU(inplace=True),
            conv2=nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            bn2=nn.BatchNorm2d(outputs),
        ))
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(OrderedDict(
                conv=nn.Conv2d(inputs, outputs, 1, stride, bias=False), bn=nn.BatchNorm2d(outputs),
            ))

    def forward(self, x):
        return F.relu(self.shortcut(x) + self.branch(x))


def make_backbone(width):
    layers = OrderedDict(
        conv=nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False), bn=nn.BatchNorm2d(width), relu=nn.ReLU(inplace=True),
    )
    inputs = width
    for number, outputs in enumerate((width, 2 * width, 4 * width, 8 * width), start=1):
        stride = 1 if number == 1 else 2
        layers[f"layer{number}"] = nn.Sequential(Block(inputs, outputs, stride), Block(outputs, outputs))
        inputs = outputs
    return nn.Sequential(OrderedDict(**layers, pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten()))


class ResNet(nn.Module):
    def __init__(self, labels, width=12):
        super().__init__()
        features = 8 * width
        self.backbone = make_backbone(width)
        self.head = nn.Linear(features, labels)

    def forward(self, x):
        f = self.backbone(x)
        return self.head(f)


def build(config):
    model = ResNet(len(config.labels))
    if config.pretrained:
        weights = torch.load(config.pretrained, weights_only=True)
        model.backbone.load_state_dict(weights)
    return model
