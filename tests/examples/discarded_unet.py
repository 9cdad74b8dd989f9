"""A U-Net classifier that throws its U away, as the one of the workshop did in production for months; examined as a user would.

    python tests/examples/discarded_unet.py
"""

import torch
from torch import Tensor, nn

from catdog.doctor import Report, examine


def block(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(inplace=True))


class Down(nn.Sequential):
    def __init__(self, before: int, after: int) -> None:
        super().__init__(nn.MaxPool2d(2), block(before, after))


class Up(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.enlarge = nn.ConvTranspose2d(before, after, 2, stride=2)
        self.convolve = block(2 * after, after)

    def forward(self, maps: Tensor, skip: Tensor) -> Tensor:
        return self.convolve(torch.cat((skip, self.enlarge(maps)), dim=1))


class UNet(nn.Module):
    def __init__(self, labels: int = 2) -> None:
        super().__init__()
        self.entry = block(3, 8)
        self.down1, self.down2, self.down3, self.down4 = Down(8, 16), Down(16, 32), Down(32, 64), Down(64, 128)
        self.up1, self.up2, self.up3, self.up4 = Up(128, 64), Up(64, 32), Up(32, 16), Up(16, 8)
        self.conv1 = nn.Conv2d(8, 4, 1)
        self.head = nn.Linear(4, labels)

    def forward(self, images: Tensor) -> Tensor:
        x1 = self.entry(images)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        x4 = self.down3(x3)
        x5 = self.down4(x4)
        x4_up = self.up1(x5, x4)
        x3_up = self.up2(x4_up, x3)
        x2_up = self.up3(x3_up, x2)
        x1_up = self.up4(x2_up, x1)
        y = self.conv1(x1)
        return self.head(y.mean(dim=(2, 3)))


def main(budget: float = 30) -> Report:
    torch.manual_seed(0)
    model = UNet()
    batch = torch.randn(8, 3, 32, 32), torch.arange(8) % 2
    report = examine(model, batch, nn.CrossEntropyLoss(), torch.optim.AdamW(model.parameters()), budget=budget)
    print(report)
    return report


if __name__ == "__main__":
    main()
