"""Answers to uploaded pictures."""

import io

import torch
from ckpt import load as load_model
from data import load
from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor


class Predictor:
    def __init__(self, path, config):
        self.labels = torch.load(path, weights_only=True)["labels"]
        self.model = load_model(path, config)
        self.transform = Compose(
            [
                Resize(config.size + 8),
                CenterCrop(config.size),
                ToTensor(),
                Normalize(config.mean, config.std),
            ]
        )

    def prepare(self, content):
        return self.transform(load(io.BytesIO(content)))

    @torch.no_grad()
    def logits(self, prepared):
        return self.model(prepared)

    def probabilities(self, contents):
        return self.logits(torch.stack([self.prepare(content) for content in contents])).softmax(1)

    def predict(self, content):
        scores = self.probabilities([content])[0]
        return self.labels[int(scores.argmax())], float(scores.max())
