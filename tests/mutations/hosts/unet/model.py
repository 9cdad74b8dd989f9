"""A U-Net whose last map is classified."""

import torch
from torch import nn


def double_conv(inputs, outputs):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
    )


class Down(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.pool = nn.MaxPool2d(2)
        self.conv = double_conv(inputs, outputs)

    def forward(self, x):
        return self.conv(self.pool(x))


class Up(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.up = nn.ConvTranspose2d(inputs, outputs, 2, stride=2)
        self.conv = double_conv(2 * outputs, outputs)

    def forward(self, x, skip):
        return self.conv(torch.cat([skip, self.up(x)], dim=1))


class UNet(nn.Module):
    def __init__(self, labels, width=6):
        super().__init__()
        features = 2 * width
        self.entry = double_conv(3, width)
        self.down1 = Down(width, 2 * width)
        self.down2 = Down(2 * width, 4 * width)
        self.down3 = Down(4 * width, 8 * width)
        self.down4 = Down(8 * width, 16 * width)
        self.up1 = Up(16 * width, 8 * width)
        self.up2 = Up(8 * width, 4 * width)
        self.up3 = Up(4 * width, 2 * width)
        self.up4 = Up(2 * width, width)
        self.conv1 = nn.Conv2d(width, features, 3, padding=1)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(features, labels)

    def forward(self, x):
        x1 = self.entry(x)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        x4 = self.down3(x3)
        x5 = self.down4(x4)
        x4_up = self.up1(x5, x4)
        x3_up = self.up2(x4_up, x3)
        x2_up = self.up3(x3_up, x2)
        x1_up = self.up4(x2_up, x1)
        y = self.conv1(x1_up)
        y = self.relu(y)
        f = self.pool(y).flatten(1)
        return self.head(f)


def build(config):
    return UNet(len(config.labels))
