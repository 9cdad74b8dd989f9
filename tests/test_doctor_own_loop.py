"""catdog's own training step and evaluation, examined as anyone's: nothing is found, whatever the config."""

from collections.abc import Iterable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from catdog import loop
from catdog.doctor import Intent, Report, examine
from catdog.doctor.patient import Batch, Loss
from catdog.learner import Learner
from catdog.loaders import Split
from catdog.metrics import Measures
from catdog.state import State
from tests.test_loop import learner_of, network, split

pytestmark = pytest.mark.usefixtures("one_thread")


def examined(**fields: Any) -> Report:
    """As a user would write the adapter: a step and an evaluation of their own, which know a learner."""
    net = network()
    learner: Learner = learner_of(net, batch_size=8, warmup_steps=0, **fields)
    data = split(8, 1)
    inputs = next(iter(data.batches(data.plan(8))))[0]

    def step(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> None:
        loop.train_step(learner, *batch, images=len(batch[1]), state=State())

    def evaluate(model: nn.Module, batches: Iterable[Batch], loss: Loss) -> Mapping[str, float]:
        parts = [torch.cat(part) for part in zip(*batches, strict=True)]
        whole = Split(parts[1], lambda positions, *_: parts[0][positions])
        told = loop.evaluate(model, whole, loss=learner.plain_loss, batch_size=4)
        while True:
            try:
                next(told)
            except StopIteration as end:
                measures = Measures.of(end.value)
                return {"loss": measures.loss, "accuracy": measures.accuracy}

    def mean(logits: Tensor, target: Tensor) -> Tensor:
        return learner.loss(logits, target).mean()

    return examine(
        net, (inputs, data.targets), mean, learner.optimizer, step=step, evaluate=evaluate, scaler=learner.scaler,
        intent=Intent(trainable=("head.*",) if fields.get("trainable") == "head" else ("*",), freeze_strict=True),
    )


@pytest.mark.parametrize("fields", [
    {}, {"optimizer": "sgd", "learning_rate": 0.05}, {"mixup": 0.4, "label_smoothing": 0.1}, {"cutmix": 1.0}, {"loss": "mse"},
    {"loss": "bce_with_logits", "clip_norm": 0.1}, {"micro_batch": 4}, {"balance": "weighted"}, {"ema": 0.9},
], ids=str)
def test_its_own_loop_has_nothing_wrong(fields: dict[str, Any]) -> None:
    report = examined(**fields)
    assert report.findings == (), report
    assert {"L01", "L02", "L03", "L04", "L05", "L10", "L11", "L12"} <= set(report.passed), report
