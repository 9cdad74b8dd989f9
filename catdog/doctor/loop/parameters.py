"""chosen, grouped, share: the parameters of a network by name, as a finding speaks of them."""

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

from torch import nn

SHOWN = 6
"""Names in one sentence."""


def chosen(model: nn.Module, trainable: Sequence[str] | None) -> dict[str, nn.Parameter]:
    """The parameters that are meant to be trained; without patterns those that require a gradient."""
    named = dict(model.named_parameters())
    if trainable is None:
        return {name: parameter for name, parameter in named.items() if parameter.requires_grad}
    return {name: parameter for name, parameter in named.items() if any(fnmatchcase(name, pattern) for pattern in trainable)}


def grouped(names: Collection[str], model: nn.Module) -> str:
    """The names in as few words as possible: a module whose parameters are all among them stands for them."""
    everything = [name for name, _ in model.named_parameters()]
    if names and set(everything) <= set(names):
        return "all parameters"
    found: list[str] = []
    for name in names:
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            path = ".".join(parts[:end])
            under = [one for one in everything if one == path or one.startswith(f"{path}.")]
            if (under and set(under) <= set(names)) or end == len(parts):
                found.append(path)
                break
    found = list(dict.fromkeys(found))
    return ", ".join(found[:SHOWN]) + (f" and {len(found) - SHOWN} more" if len(found) > SHOWN else "")


def share(names: Collection[str], model: nn.Module) -> float:
    """Of the trainable parameters: how many numbers lie under these names, 0 to 1."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return min(1.0, sum(sizes.get(name, 0) for name in names) / max(1, trainable))
