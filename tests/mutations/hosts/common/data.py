"""Pictures in folders -> batches. A picture's label stands in its name: 0123-cat.jpg"""

from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import CenterCrop, Compose, Normalize, RandomCrop, RandomHorizontalFlip, Resize, ToTensor

SPLITS = ("train", "val", "test")


def label_of(path, labels):
    return next(label for label in labels if label in path.name)


def load(file):
    image = ImageOps.exif_transpose(Image.open(file))
    return image.convert("RGB")


def make_transform(config, training=False):
    if training and config.augment:
        geometry = [Resize(config.size + 8), RandomCrop(config.size), RandomHorizontalFlip()]
    else:
        geometry = [Resize(config.size + 8), CenterCrop(config.size)]
    return Compose([*geometry, ToTensor(), Normalize(config.mean, config.std)])


class Pictures(Dataset):
    def __init__(self, folder, config, training=False):
        self.paths = sorted(Path(folder).iterdir())
        self.targets = [config.labels.index(label_of(path, config.labels)) for path in self.paths]
        self.transform = make_transform(config, training)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        image = load(self.paths[index])
        return self.transform(image), self.targets[index]


def make_sets(config):
    return {split: Pictures(Path(config.data, split), config, training=split == "train") for split in SPLITS}


def make_loaders(sets, config):
    train = DataLoader(sets["train"], batch_size=config.batch_size, shuffle=True, num_workers=config.workers)
    held_out = {split: DataLoader(sets[split], batch_size=32, num_workers=config.workers) for split in SPLITS if split != "train"}
    return {"train": train, **held_out}


def seed_everything(seed):
    torch.manual_seed(seed)
