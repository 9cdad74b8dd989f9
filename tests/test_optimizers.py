"""optimizers: what is decayed, and what is left alone."""

from torch import nn

from catdog import optimizers


def test_only_matrices_and_kernels_are_decayed_and_only_what_is_trainable_is_there() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    network[0].weight.requires_grad_(False)
    optimizer = optimizers.build(network, learning_rate=0.1, weight_decay=0.5)
    decayed, plain = optimizer.param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.5, 0.0)
    assert [tuple(p.shape) for p in decayed["params"]] == [(2, 4)]
    assert sorted(tuple(p.shape) for p in plain["params"]) == [(2,), (4,), (4,), (4,)]
