"""What a training is meant to be."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Config:
    data: str
    labels: tuple[str, ...] = ("cat", "dog")
    size: int = 64
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    augment: bool = True
    order: str = "shuffled"
    trainable: str = "all"  # or head
    freeze: str = "loose"  # strict: what is frozen keeps its batch statistics too
    pretrained: str = ""  # a file of weights to start from
    loss: str = "cross_entropy"
    reduction: str = "mean"
    epochs: int = 3
    batch_size: int = 16
    accumulate: int = 1
    clip: float = 1.0
    workers: int = 0
    select_by: str = "val_loss"
    seed: int = 0

    @classmethod
    def read(cls, path):
        fields = json.loads(Path(path).read_text())
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})

    def to_dict(self):
        return asdict(self)
