"""build, UNet: the workshop's U-Net as a classifier. Its decoder is used: what is pooled is the decoder's last map.

Channels, and side in parts of S:

    entry   64  1/1 ------------------------------> up4    64  1/1 --pool--> features (N, 64)
    down1  128  1/2 -----------------------> up3   128  1/2
    down2  256  1/4 ----------------> up2   256  1/4
    down3  512  1/8 ---------> up1   512  1/8
    down4 1024  1/16
"""

import torch
from torch import Tensor, nn

CHANNELS = (64, 128, 256, 512, 1024)
DROPOUT = 0.3


class DoubleConvolution(nn.Sequential):
    """Two 3x3 convolutions, each with batch normalisation and ReLU; the side stays."""

    def __init__(self, before: int, after: int) -> None:
        # No bias: batch normalisation, which follows, would take it away again.
        super().__init__(
            nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True),
            nn.Conv2d(after, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True),
        )


class Down(nn.Sequential):
    """Half the side, twice the channels."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__(nn.MaxPool2d(2), DoubleConvolution(before, after))


class Up(nn.Module):
    """Twice the side, half the channels, with the encoder's map of that side beside it."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.enlarge = nn.ConvTranspose2d(before, after, 2, stride=2)
        self.convolve = DoubleConvolution(2 * after, after)

    def forward(self, maps: Tensor, skip: Tensor) -> Tensor:
        """(N, before, s, s) and (N, after, 2s, 2s) -> (N, after, 2s, 2s)."""
        enlarged: Tensor = self.convolve(torch.cat((skip, self.enlarge(maps)), dim=1))
        return enlarged


class UNet(nn.Module):
    """Normalised images (N, 3, S, S), S a multiple of 16 -> features (N, 64)."""

    def __init__(self) -> None:
        super().__init__()
        first, second, third, fourth, fifth = CHANNELS
        self.entry = DoubleConvolution(3, first)
        self.down1, self.down2 = Down(first, second), Down(second, third)
        self.down3, self.down4 = Down(third, fourth), Down(fourth, fifth)
        self.up1, self.up2 = Up(fifth, fourth), Up(fourth, third)
        self.up3, self.up4 = Up(third, second), Up(second, first)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, images: Tensor) -> Tensor:
        """Features of normalised images."""
        full = self.entry(images)
        half = self.down1(full)
        quarter = self.down2(half)
        eighth = self.down3(quarter)
        maps = self.up1(self.down4(eighth), eighth)
        maps = self.up2(maps, quarter)
        maps = self.up3(maps, half)
        maps = self.up4(maps, full)
        features: Tensor = self.dropout(self.pool(maps).flatten(1))
        return features


def build() -> tuple[nn.Module, int]:
    """The backbone and its number of features."""
    return UNet(), CHANNELS[0]
