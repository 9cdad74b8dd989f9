"""What training makes small."""

from torch import nn


def make_criterion(config):
    return nn.CrossEntropyLoss()
