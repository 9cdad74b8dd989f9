"""build: AdamW over what is trainable, with weight decay on matrices and kernels only."""

from torch import nn
from torch.optim import AdamW, Optimizer


def build(network: nn.Module, *, learning_rate: float, weight_decay: float) -> Optimizer:
    """AdamW (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101) over the parameters that need a gradient.

    Biases and normalisation scales (one dimension) are not decayed: pulling them to zero regularises nothing.
    """
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return AdamW([group for group in groups if group["params"]], lr=learning_rate)
