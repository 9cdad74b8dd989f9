"""Weights on disk."""

import torch
from model import build


def save(path, model, config, scores):
    torch.save({"model": model.state_dict(), "labels": list(config.labels), "scores": scores}, path)


def load(path, config):
    saved = torch.load(path, weights_only=True)
    model = build(config)
    model.load_state_dict(saved["model"])
    return model.eval()
