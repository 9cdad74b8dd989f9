"""read, load: state dicts from weights files, without running anything they hold and without letting anything be missing."""

import pickle
from pathlib import Path

import torch
from torch import Tensor, nn

from catdog.errors import WeightsUnavailable


def read(path: Path) -> dict[str, Tensor]:
    """Read a state dict. Only tensors and plain containers are unpickled; there is no unsafe fallback.

    Raises:
        WeightsUnavailable: not a state dict, or one that would run code.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise _wrong(f"Expected a state dict of tensors. Received: {path} ({type(error).__name__}).") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise _wrong(f"Expected a state dict of tensors. Received: {path}, which holds something else.")
    return state


def load(network: nn.Module, state: dict[str, Tensor], *, source: Path) -> None:
    """Put a state dict into a network; every name and every shape must match.

    Raises:
        WeightsUnavailable: it does not fit the network.
    """
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise _wrong(f"Expected the weights of this network. Received: {source}: {str(error)[:500]}") from error


def _wrong(message: str) -> WeightsUnavailable:
    return WeightsUnavailable(message, field="weights", remedy="Put the right file in its place, or set weights to none.")
