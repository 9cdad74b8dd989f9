"""still: a network whose batch statistics and dropout do nothing, whatever mode the loop puts it in."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """Keep every module in evaluation mode: `model.train()` inside has no effect. An image's answer is then the same in every batch."""
    modules = list(model.modules())
    before = [(module, module.training, module.__dict__.get("train")) for module in modules]
    for module in modules:
        module.training = False
        module.__dict__["train"] = lambda _mode=True, *, module=module: module
    try:
        yield
    finally:
        for module, training, own in before:
            del module.__dict__["train"]
            if own is not None:
                module.__dict__["train"] = own
            module.training = training
