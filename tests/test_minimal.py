"""The workshop asks: does the model still train when all reporting is taken out? Here is what is left: the same weights, in 25 lines.

No checkpoints, measures, budgets, devices or progress; catdog/loop.py is these lines and the care around them.
"""

from pathlib import Path

import pytest
import torch
from torch import nn

from catdog import loop, optimizers
from catdog.config import TrainConfig
from catdog.loaders import Splits, shuffled
from catdog.losses import build
from catdog.schedules import learning_rate
from tests.test_loop import config, network, split, train

pytestmark = pytest.mark.usefixtures("one_thread")


def minimal(network: nn.Module, splits: Splits, config: TrainConfig) -> dict[str, torch.Tensor]:
    """Train, and return the weights of the best epoch."""
    loss, optimizer = build(config.loss, labels=2), optimizers.build(network, config)
    best, best_weights, step = float("inf"), network.state_dict(), 0
    steps = config.epochs * len(splits.train.plan(config.batch_size or 1))
    for epoch in range(config.epochs):
        network.train()
        order = shuffled(len(splits.train), seed=config.seed, epoch=epoch)
        for inputs, target in splits.train.batches(splits.train.plan(config.batch_size or 1, order), epoch=epoch):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(
                    step, schedule=config.schedule, highest=config.learning_rate, warmup_steps=config.warmup_steps, steps=steps,
                )
            optimizer.zero_grad()
            loss(network(inputs), target).mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
        network.eval()
        with torch.no_grad():
            everything = splits.val.plan(len(splits.val))
            val = sum(loss(network(inputs), target).sum().item() for inputs, target in splits.val.batches(everything)) / len(splits.val)
        if val < best:
            best, best_weights = val, {name: value.clone() for name, value in network.state_dict().items()}
    return best_weights


def test_the_loop_without_its_care_learns_the_same(tmp_path: Path) -> None:
    for _ in train(tmp_path):
        pass
    expected = loop.best(tmp_path).weights()
    received = minimal(network(), Splits(split(16, 1), split(6, 2)), config())
    assert received.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(received[name], value, rtol=1e-5, atol=1e-6)
