"""Snapshot: everything of a patient that an examination could change, and the way back.

Of the network and of a loss that is a module: parameters, buffers (also those that no state_dict names), gradients, flags, plain
attributes, hooks; of the optimizer its state and groups; the scheduler; the scaler; the generators of torch, CUDA, NumPy, Python and
those that a data set keeps as attributes. Tensors keep their identity: what somebody holds a reference to is what is put back.
"""

import copy
import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from catdog.device import random_state, restore_random_state
from catdog.doctor.patient import Patient


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A state to come back to."""

    ways_back: tuple[Callable[[], None], ...]

    @classmethod
    def of(cls, patient: Patient) -> Self:
        """Keep the present state."""
        ways = [_module(module) for module in _modules(patient)]
        tensors = {id(tensor): tensor for module in _modules(patient) for tensor in _tensors(module)}
        if patient.optimizer is not None:  # it may hold tensors that are no longer the network's
            tensors |= {id(tensor): tensor for group in patient.optimizer.param_groups for tensor in group["params"]}
        ways += [_tensor(tensor) for tensor in tensors.values()]
        if patient.optimizer is not None:
            ways.append(_optimizer(patient.optimizer))
        for owner in (patient.scheduler, patient.scaler):
            if owner is not None:
                ways.append(_loads(owner, copy.deepcopy(owner.state_dict())))
        return cls((*ways, _generators(patient), _grad_mode(torch.is_grad_enabled())))

    def restore(self) -> None:
        """Put it back."""
        with torch.no_grad():
            for way in self.ways_back:
                way()


def digest(patient: Patient) -> str:
    """A hash of all that a Snapshot keeps: equal before and after an examination."""
    hashed = hashlib.blake2b(digest_size=16)
    for said in _said(patient):
        hashed.update(said if isinstance(said, bytes) else repr(said).encode())
    return hashed.hexdigest()


def _said(patient: Patient) -> Iterator[Any]:
    for number, module in enumerate(_modules(patient)):
        yield number, module.training, sorted(module._parameters), sorted(module._buffers), sorted(module._modules)
        yield [len(hooks) for name, hooks in sorted(module.__dict__.items()) if name.endswith("_hooks")]
        for tensor in _tensors(module):
            yield tensor.requires_grad, tensor.dtype, tuple(tensor.shape)
            yield _bytes(tensor)
            yield _bytes(tensor.grad) if tensor.grad is not None else None
    if patient.optimizer is not None:
        for group in patient.optimizer.param_groups:
            yield {name: value for name, value in group.items() if name != "params"}
            for tensor in group["params"]:
                for name, value in sorted(patient.optimizer.state.get(tensor, {}).items()):
                    yield name
                    yield _bytes(value) if isinstance(value, Tensor) else value
    for owner in (patient.scheduler, patient.scaler):
        yield owner and owner.state_dict()
    yield torch.is_grad_enabled()
    yield from map(_bytes, random_state().values())
    yield [_state_of(generator) for generator in _own_generators(patient)]


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().flatten()
    return bytes(flat.view(torch.uint8).numpy()) if flat.numel() else b""


def _modules(patient: Patient) -> list[nn.Module]:
    roots = [patient.model, *([patient.loss] if isinstance(patient.loss, nn.Module) else [])]
    return list({id(module): module for root in roots for module in root.modules()}.values())


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    """Registered or not."""
    for values in (module._parameters, module._buffers, module.__dict__):
        yield from (tensor for tensor in values.values() if isinstance(tensor, Tensor))


def _module(module: nn.Module) -> Callable[[], None]:
    attributes = dict(module.__dict__)
    contents = {name: copy.copy(value) for name, value in attributes.items() if isinstance(value, (dict, list, set))}

    def restore() -> None:
        module.__dict__.clear()
        module.__dict__.update(attributes)
        for name, value in contents.items():
            kept = attributes[name]
            kept.clear()
            kept.extend(value) if isinstance(kept, list) else kept.update(value)

    return restore


def _tensor(tensor: Tensor) -> Callable[[], None]:
    value, gradient, required = tensor.detach().clone(), tensor.grad, tensor.requires_grad
    gradient_value = None if gradient is None else gradient.detach().clone()

    def restore() -> None:
        if tensor.is_leaf:
            tensor.requires_grad_(required)
        tensor.data.copy_(value)
        tensor.grad = gradient
        if gradient is not None and gradient_value is not None:
            gradient.data.copy_(gradient_value)

    return restore


def _optimizer(optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    groups = [dict(group) | {"params": list(group["params"])} for group in optimizer.param_groups]
    state = {
        tensor: {name: (value, copy.deepcopy(value)) for name, value in values.items()} for tensor, values in optimizer.state.items()
    }
    attributes = {name: value for name, value in optimizer.__dict__.items() if name not in ("param_groups", "state")}

    def restore() -> None:
        kept, state_kept = optimizer.param_groups, optimizer.state
        optimizer.__dict__.clear()
        optimizer.__dict__.update(attributes, param_groups=kept, state=state_kept)
        del optimizer.param_groups[len(groups):]
        for group, value in zip(optimizer.param_groups, groups, strict=True):
            group.clear()
            group.update(value | {"params": list(value["params"])})
        optimizer.state.clear()
        for tensor, values in state.items():
            optimizer.state[tensor] = {name: _put_back(*value) for name, value in values.items()}

    return restore


def _put_back(kept: Any, value: Any) -> Any:
    if not isinstance(kept, Tensor):
        return copy.deepcopy(value)
    return kept.copy_(value)


def _loads(owner: Any, state: dict[str, Any]) -> Callable[[], None]:
    return lambda: owner.load_state_dict(copy.deepcopy(state))


def _grad_mode(enabled: bool) -> Callable[[], None]:
    return lambda: torch._C._set_grad_enabled(enabled)


def _generators(patient: Patient) -> Callable[[], None]:
    state_of_all = random_state()
    own = [(generator, _state_of(generator)) for generator in _own_generators(patient)]

    def restore() -> None:
        restore_random_state(state_of_all)
        for generator, state in own:
            if isinstance(generator, np.random.Generator):
                generator.bit_generator.state = state
            elif isinstance(generator, random.Random):
                generator.setstate(state)
            else:
                generator.set_state(state)

    return restore


def _own_generators(patient: Patient) -> list[Any]:
    """Those that a data set, or what it wraps, keeps as attributes."""
    owners = [split.items for split in patient.data.splits.values()] if patient.data is not None else []
    owners += [owner.dataset for owner in owners if hasattr(owner, "dataset")]
    kinds = (np.random.Generator, random.Random, torch.Generator)
    return [value for owner in owners for value in getattr(owner, "__dict__", {}).values() if isinstance(value, kinds)]


def _state_of(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return copy.deepcopy(generator.bit_generator.state)
    return generator.getstate() if isinstance(generator, random.Random) else generator.get_state()
