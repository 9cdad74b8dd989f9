"""The training loop."""

import math
import sys
from pathlib import Path

import torch
from ckpt import load, save
from config import Config
from data import make_loaders, make_sets, seed_everything
from loss import make_criterion
from model import build
from torch import nn


def freeze(model, config):
    """Leave what is meant to be trained trainable."""
    if config.trainable == "head":
        for name, parameter in model.named_parameters():
            parameter.requires_grad = name.startswith("head.")


def make_optimizer(model, config):
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.Adam(trainable, lr=1e-3)


def make_scheduler(optimizer, config):
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=config.epochs)


def prepare(config):
    model = build(config)
    freeze(model, config)
    criterion = make_criterion(config)
    optimizer = make_optimizer(model, config)
    scheduler = make_scheduler(optimizer, config)
    return model, criterion, optimizer, scheduler


def train_mode(model, config):
    model.train()
    if config.trainable == "head" and config.freeze == "strict":
        for name, module in model.named_children():
            if name != "head":
                module.eval()


def train_step(model, batch, criterion, optimizer, config, position=0):
    """One (micro-)batch; `position` is its place in the epoch."""
    x, y = batch
    if position % config.accumulate == 0:
        optimizer.zero_grad()
    out = model(x)
    loss = criterion(out, y)
    loss = loss / config.accumulate
    loss.backward()
    if (position + 1) % config.accumulate == 0:
        nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
    return loss.item() * config.accumulate


@torch.no_grad()
def evaluate(model, batches, criterion):
    model.eval()
    losses, hits, n = 0.0, 0, 0
    for x, y in batches:
        out = model(x)
        losses += criterion(out, y).item() * len(y)
        hits += (out.argmax(1) == y).sum().item()
        n += len(y)
    return {"loss": losses / n, "accuracy": hits / n}


def fit(model, criterion, optimizer, scheduler, loaders, config, folder):
    """Train, and keep the best epoch in `folder`; returns a record of each epoch."""
    history, best = [], math.inf
    for epoch in range(config.epochs):
        train_mode(model, config)
        losses = []
        for position, batch in enumerate(loaders["train"]):
            losses.append(train_step(model, batch, criterion, optimizer, config, position))
        scheduler.step()
        scores = evaluate(model, loaders["val"], criterion)
        history.append(
            {"epoch": epoch, "loss": sum(losses) / len(losses), "val_loss": scores["loss"], "val_accuracy": scores["accuracy"]}
        )
        if scores["loss"] < best:
            best = scores["loss"]
            save(Path(folder, "best.pt"), model, config, scores)
    return history


def main(config_file, folder):
    """Train from the beginning; returns the records and how the best epoch does on the test split."""
    config = Config.read(config_file)
    seed_everything(config.seed)
    loaders = make_loaders(make_sets(config), config)
    model, criterion, optimizer, scheduler = prepare(config)
    history = fit(model, criterion, optimizer, scheduler, loaders, config, folder)
    best = load(Path(folder, "best.pt"), config)
    return history, evaluate(best, loaders["test"], criterion)


if __name__ == "__main__":
    main(*sys.argv[1:])
