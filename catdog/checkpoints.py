"""save, load, latest, at, keep, inherit, restore, Checkpoint: everything a run needs to go on, on disk, whole or not there.

    runs/<job>/checkpoints/<fence>/step-0000400/
        weights.safetensors     the network
        average.safetensors     their moving average, where the run keeps one: then it is what is measured and published
        optimizer.safetensors   the optimiser's moments and the random generators
        state.json              where the loop is, and the best epoch so far
        MANIFEST.json           sha256 of each of them, written last: a step without a valid one does not exist

Each attempt (fence) writes into its own folder, so that a lost attempt that still breathes cannot touch its successor's. In the folder 0
lies what a resumed run has inherited.
What is not covered: a disk that lies about fsync.
"""

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from catdog import device
from catdog.errors import CorruptCheckpoint
from catdog.files import link_or_copy, sha256_of, share_as_folder, sync_folder, write_atomically

_OF = "@"
"""Between a parameter's name and what is remembered of it."""
_FILES = ("weights.safetensors", "optimizer.safetensors", "state.json")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One verified checkpoint on disk."""

    folder: Path
    state: dict[str, Any]

    @property
    def step(self) -> int:
        """Optimizer steps done when it was saved."""
        return int(self.state["step"])

    def weights(self) -> dict[str, Tensor]:
        """The state dict of what was measured, on the CPU: the network's, or that of its average."""
        average = self.folder / "average.safetensors"
        return load_file(average if average.exists() else self.folder / "weights.safetensors")


def save(
    folder: Path, *, fence: int, network: nn.Module, optimizer: Optimizer, state: dict[str, Any], average: nn.Module | None = None,
) -> Path:
    """Write a checkpoint under `folder`; returns its path once it is durable. state["step"] names it."""
    path = folder / str(fence) / f"step-{state['step']:07d}"
    if path.exists():
        shutil.rmtree(path)
    path.mkdir(parents=True)
    save_file(_contiguous(network.state_dict()), path / "weights.safetensors")
    if average is not None:
        save_file(_contiguous(average.state_dict()), path / "average.safetensors")
    save_file(_contiguous(_moments(network, optimizer) | device.random_state()), path / "optimizer.safetensors")
    (path / "state.json").write_text(json.dumps(state, indent=1))
    files = sorted(path.iterdir())
    for one in files:
        share_as_folder(one)
        with one.open("rb") as file:
            os.fsync(file.fileno())
    with write_atomically(path / "MANIFEST.json") as unfinished:
        unfinished.write_text(json.dumps({one.name: sha256_of(one) for one in files}, indent=1))
    sync_folder(path.parent)
    return path


def load(path: Path) -> Checkpoint:
    """Open one checkpoint after checking every byte of it.

    Raises:
        CorruptCheckpoint: no manifest, or a file that is not what the manifest says.
    """
    try:
        manifest = json.loads((path / "MANIFEST.json").read_text())
        changed = [name for name in {*_FILES, *manifest} if manifest[name] != sha256_of(path / name)]
        if changed:
            raise CorruptCheckpoint(f"Expected the files the manifest describes. Received: {path.name} with {', '.join(changed)} changed.")
        return Checkpoint(path, json.loads((path / "state.json").read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptCheckpoint(f"Expected a checkpoint with a manifest. Received: {path.name} ({error}).") from error


def latest(folder: Path, *, fence: int) -> Checkpoint | None:
    """The valid checkpoint with the most steps, of whatever attempt; a broken one of this or an earlier attempt becomes `*.corrupt`."""
    for path in _newest_first(folder):
        try:
            return load(path)
        except CorruptCheckpoint:
            if _fence(path) <= fence:  # a later attempt's may only be unfinished
                with contextlib.suppress(FileNotFoundError):  # another rank has done it
                    path.rename(path.with_name(f"{path.name}.corrupt"))
    return None


def at(folder: Path, step: int) -> Checkpoint:
    """The valid checkpoint of exactly that step.

    Raises:
        CorruptCheckpoint: there is none.
    """
    for path in _newest_first(folder):
        if path.name == f"step-{step:07d}":
            return load(path)
    raise CorruptCheckpoint(f"Expected a checkpoint of step {step}. Received: none in {folder.name}.")


def keep(folder: Path, steps: Iterable[int], *, fence: int) -> None:
    """Remove every checkpoint of this and earlier attempts but those of `steps`."""
    kept = {f"step-{step:07d}" for step in steps}
    for path in list(_newest_first(folder)):
        if path.name not in kept and _fence(path) <= fence:
            shutil.rmtree(path)


def inherit(old: Path, new: Path) -> Checkpoint:
    """Give the folder `new` the newest valid checkpoint of `old` and that of its best epoch, both or neither, and return the newest.

    If `new` has a valid checkpoint it is left as it is, and that one is returned.

    Raises:
        CorruptCheckpoint: `old` has no valid checkpoint whose best epoch's is valid too.
    """
    if own := latest(new, fence=-1):
        return own
    newest, *best = _whole(old)
    # Beside `new`, where nobody looks for checkpoints; what a killed attempt leaves there is removed like every *.tmp-*.
    unfinished, broken = (new.with_name(f"{new.name}.tmp-{secrets.token_hex(4)}") for _ in "12")
    unfinished.mkdir(parents=True)
    try:
        for checkpoint in (newest, *best):
            _hand_over(checkpoint.folder, unfinished / checkpoint.folder.name)
        sync_folder(unfinished)
        new.mkdir(exist_ok=True)
        if (new / "0").exists():  # nothing in it is valid
            (new / "0").rename(broken)
        unfinished.rename(new / "0")
        sync_folder(new)
        sync_folder(new.parent)
    finally:
        for left in (unfinished, broken):
            shutil.rmtree(left, ignore_errors=True)
    return Checkpoint(new / "0" / newest.folder.name, newest.state)


def restore(checkpoint: Checkpoint, *, network: nn.Module, optimizer: Optimizer, average: nn.Module | None = None) -> None:
    """Put a checkpoint back into network, average, optimizer and random generators."""
    network.load_state_dict(load_file(checkpoint.folder / "weights.safetensors"))
    if average is not None:
        average.load_state_dict(checkpoint.weights())
    tensors = load_file(checkpoint.folder / "optimizer.safetensors")
    device.restore_random_state({name: tensors.pop(name) for name in list(tensors) if name.startswith("random.")})
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for position, parameter in enumerate(parameters):
        prefix = f"{names[id(parameter)]}{_OF}"
        for name in [name for name in tensors if name.startswith(prefix)]:
            tensor = tensors[name]
            if tensor.ndim and tensor.shape != parameter.shape:
                raise CorruptCheckpoint(f"Expected {name} of shape {tuple(parameter.shape)}. Received: {tuple(tensor.shape)}.")
            # A moment lies in memory as its parameter does (channels last): the fused optimizers go through both in step.
            lying = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor) if tensor.ndim else tensor
            moments.setdefault(position, {})[name.removeprefix(prefix)] = lying
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


def _whole(folder: Path) -> tuple[Checkpoint, ...]:
    """The newest checkpoint that is valid, and so is that of the best epoch it knows of; then that one, where it is another."""
    for path in _newest_first(folder):
        with contextlib.suppress(CorruptCheckpoint):
            newest = load(path)
            best = newest.state["best_step"]  # 0 before the first epoch has ended
            return (newest,) if best in (0, newest.step) else (newest, at(folder, best))
    raise CorruptCheckpoint(
        "Expected a valid checkpoint in the run that is resumed. Received: none.",
        remedy="Start a new training with its config instead; over HTTP, clone its job.",
    )


def _hand_over(old: Path, new: Path) -> None:
    new.mkdir()
    for name in (*json.loads((old / "MANIFEST.json").read_text()), "MANIFEST.json"):
        link_or_copy(old / name, new / name)
    sync_folder(new)


def _newest_first(folder: Path) -> Iterator[Path]:
    """By step (zero-padded, so names sort), then by fence."""
    found = [path for path in folder.glob("*/step-*") if path.name.removeprefix("step-").isdigit()]
    yield from sorted(found, key=lambda path: (path.name, _fence(path)), reverse=True)


def _fence(path: Path) -> int:
    return int(path.parent.name)


def _moments(network: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """What the optimizer remembers, by the names of parameters: their order is that of learning rates, which a resumed run may change."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return {
        f"{names[id(parameter)]}{_OF}{moment}": value
        for parameter, moments in optimizer.state.items() for moment, value in moments.items() if value is not None
    }


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
