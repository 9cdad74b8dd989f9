"""transform, LABELS, NETWORK, WORKERS: what every one of these servers does with a picture: torchvision's documented preprocessing."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from torchvision import transforms

NETWORK = Path(os.environ["BENCH_NETWORK"])
WORKERS = int(os.environ.get("BENCH_WORKERS", "1"))
_FACTS: dict[str, Any] = json.loads((NETWORK / "facts.json").read_text())
LABELS: list[str] = _FACTS["labels"]

transform = transforms.Compose([
    transforms.Resize(256),
    transforms.CenterCrop(224),
    transforms.ToTensor(),
    transforms.Normalize(mean=_FACTS["mean"], std=_FACTS["std"]),
])


def answer(logits: torch.Tensor) -> dict[str, float]:
    """Logits (1, C) -> probability by label."""
    return dict(zip(LABELS, torch.softmax(logits[0], dim=0).tolist(), strict=True))


def network() -> torch.nn.Module:
    """The network in eager PyTorch, images (N, 3, 224, 224) float32 -> logits."""
    loaded: torch.nn.Module = torch.load(NETWORK / "network.pt", weights_only=False)
    return loaded.eval()
