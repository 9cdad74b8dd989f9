"""freeze, stages, set_training, build: what of a network is trained, how fast, and by what.

A Classifier's head is `head.*` and all else comes before it; a network that is a head alone, on the features of a frozen backbone, is
all head.
"""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from catdog.config import TrainConfig
from catdog.errors import BadConfig

OPENED = 0.8
"""A child that holds more than this share of the parameters is no stage but what the stages are in: `features`, `encoder.layers`."""
FEWEST = 4
"""Stages, if the network can be parted into so many."""


def freeze(network: nn.Module, trainable: str | Sequence[str]) -> None:
    """Let only those parameters need a gradient that `trainable` (see TrainConfig) names.

    Raises:
        BadConfig: more stages than there are, or a pattern that matches nothing.
    """
    names = [name for name, _ in network.named_parameters()]
    if trainable == "all":
        chosen = set(names)
    elif isinstance(trainable, str):
        number = int(trainable.removeprefix("stages:")) if trainable != "head" else 0
        there = stages(network)
        if number > len(there):
            raise BadConfig(
                f"trainable: expected at most the {len(there)} stages of this network. Received: {trainable}.", field="trainable",
                remedy=f"Set it to stages:{len(there)} or less, or all. From the front they are: {', '.join(map(' + '.join, there))}.",
            )
        last = [prefix for stage in there[len(there) - number :] for prefix in stage]
        chosen = {name for name in names if is_head(name) or name.startswith(tuple(f"{prefix}." for prefix in last))}
    else:
        chosen = {name for name in names if any(fnmatchcase(name, pattern) for pattern in trainable)}
        idle = [pattern for pattern in trainable if not any(fnmatchcase(name, pattern) for name in names)]
        if idle:
            raise BadConfig(
                f"trainable: expected patterns of parameter names. Received: {', '.join(idle)}, which match none of {len(names)}.",
                field="trainable", remedy=f"They are called like {names[0]} and {names[-1]}; * stands for anything.",
            )
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in chosen)


def is_head(name: str) -> bool:
    """Whether the parameter of that name belongs to the head."""
    return name.startswith("head.") or "." not in name


def stages(network: nn.Module) -> list[list[str]]:
    """The stages of a classifier's backbone from front to back, each the prefixes of its modules' names.

    They are the backbone's children, where one that holds nearly everything, or the largest while there are hardly any, is replaced by its
    own. What has only vectors (a normalisation) goes with the stage before it. Empty for a network without a backbone.
    """
    if not hasattr(network, "backbone"):
        return []
    found = [("backbone", network.get_submodule("backbone"))]
    while True:
        sizes = [sum(parameter.numel() for parameter in module.parameters()) for _, module in found]
        openable = [number for number, (_, module) in enumerate(found) if sizes[number] and any(True for _ in module.children())]
        largest = max(openable, key=sizes.__getitem__, default=None)
        if largest is None or (len(found) >= FEWEST and sizes[largest] < OPENED * sum(sizes)):
            break
        name, opened = found[largest]
        children = [(f"{name}.{child}", module) for child, module in opened.named_children() if any(True for _ in module.parameters())]
        found[largest : largest + 1] = children
    grouped: list[list[str]] = []
    for name, module in found:
        if grouped and all(parameter.ndim <= 1 for parameter in module.parameters()):
            grouped[-1].append(name)
        else:
            grouped.append([name])
    return grouped


def set_training(network: nn.Module) -> None:
    """Put a network into training mode but for what is frozen: its normalisations keep their statistics, its dropout drops nothing."""
    network.train()
    for module in _frozen(network):
        module.eval()


def _frozen(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules that have parameters and train none of them."""
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        yield module
        return
    for child in module.children():
        yield from _frozen(child)


def build(network: nn.Module, config: TrainConfig) -> Optimizer:
    """The optimizer of the parameters that need a gradient.

    AdamW (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101), or SGD with Nesterov's momentum. Each group has beside torch's own
    settings a `scale`, what a step's learning rate is multiplied with for it, and `is_head`. Biases and normalisation scales (one
    dimension) are not decayed: pulling them to zero regularises nothing.
    """
    groups: dict[tuple[bool, float, bool], list[nn.Parameter]] = {}
    depths = stages(network)
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((is_head(name), _scale(name, depths, config), parameter.ndim > 1), []).append(parameter)
    settings = [
        {"params": own, "is_head": head, "scale": scale, "weight_decay": config.weight_decay if is_matrix else 0.0}
        for (head, scale, is_matrix), own in sorted(groups.items(), key=lambda item: item[0], reverse=True)
    ]
    if config.optimizer == "sgd":
        return SGD(settings, lr=config.learning_rate, momentum=config.momentum, nesterov=config.momentum > 0, fused=True)
    return AdamW(settings, lr=config.learning_rate, fused=True)


def _scale(name: str, depths: Sequence[Sequence[str]], config: TrainConfig) -> float:
    """How fast a parameter learns, as a share of the head's learning rate."""
    if is_head(name):
        return 1.0
    if config.backbone_lr is not None:
        return config.backbone_lr / config.learning_rate
    if config.layer_decay is None:
        return 1.0
    # What stands before or beside the stages (a class token, an embedding of positions) goes with the first.
    stage = next((number for number, prefixes in enumerate(depths) if name.startswith(tuple(f"{one}." for one in prefixes))), 0)
    return float(config.layer_decay ** (len(depths) - stage))
