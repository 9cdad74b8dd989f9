"""A network for two labels and the loop of a workshop's slide. It runs, its loss is finite, and nothing is ever learned.

    python five_bugs.py
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from catdog.doctor import Report, examine


class SmallNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )
        self.head = nn.Linear(16, 2)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits


def train_step(model: nn.Module, batch: tuple[Tensor, Tensor], loss_fnc: Callable[[Tensor, Tensor], Tensor], optimizer: Optimizer) -> float:
    images, labels = batch
    optimizer.zero_grad()
    output = torch.sigmoid(model(images))
    loss = loss_fnc(output, output)
    loss.backward
    optimizer.step
    return float(loss.detach())


def pictures() -> tuple[Tensor, Tensor]:
    """16 pictures (16, 3, 24, 24); the label is the brighter half."""
    labels = torch.arange(16) % 2
    images = torch.randn(16, 3, 24, 24)
    images[labels == 1, :, :12] += 1
    return images, labels


def main(budget: float = 30) -> Report:
    torch.manual_seed(0)
    model = SmallNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=100)
    return examine(model, pictures(), nn.CrossEntropyLoss(), optimizer, step=train_step, budget=budget)


if __name__ == "__main__":
    print(main())
