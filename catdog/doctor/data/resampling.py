"""resampling: by which filter a preparation resizes, found by trying all of them on what it shows."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from catdog.doctor.data.geometry import Frame

FILTERS = {
    "nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC,
    "Lanczos": Image.Resampling.LANCZOS, "box": Image.Resampling.BOX, "Hamming": Image.Resampling.HAMMING,
}


def tried(image: Image.Image, frame: Frame) -> dict[str, Tensor]:
    """By name of a filter: (3, H, W) in 0..1, what it makes of an RGB image where the frame shows it."""
    width, height = image.size
    left, top, right, bottom = (share * side for share, side in zip(frame.box, (width, height, width, height), strict=True))
    rows, columns = np.flatnonzero(frame.shown.any(axis=1)), np.flatnonzero(frame.shown.any(axis=0))
    size = (columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)
    made = {}
    for name, one in FILTERS.items():
        resized = image.resize(size, one, box=(left, top, right, bottom))
        made[name] = torch.from_numpy(np.array(resized)).permute(2, 0, 1).double() / 255
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).double()[None] / 255
    x = torch.linspace(left, right, 2 * size[0] + 1, dtype=torch.float64)[1::2] * 2 / width - 1
    y = torch.linspace(top, bottom, 2 * size[1] + 1, dtype=torch.float64)[1::2] * 2 / height - 1
    grid = torch.stack([x.expand(size[1], -1), y[:, None].expand(-1, size[0])], dim=2)[None]
    for name in ("nearest", "bilinear", "bicubic"):
        sampled = functional.grid_sample(pixels, grid, mode=name, padding_mode="border", align_corners=False)[0]
        made[f"{name} without antialias"] = sampled.clamp(0, 1)
    return made
