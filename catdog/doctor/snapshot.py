"""Snapshot, way_back, digest: everything of a patient that an examination could change, and the way back.

Of all that Belongings finds: attributes, contents, values, gradients, flags; and the generators of torch, CUDA, NumPy and Python.
Things keep their identity: what somebody holds a reference to is what is put back. Of tensors whole storages are kept, so that views,
expanded and shared tensors are what they were.
"""

import copy
import hashlib
import io
import itertools
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import CellType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from catdog.device import random_state, restore_random_state
from catdog.doctor.belongings import EMPTY, Belongings, Generator, attributes, content_of, gradient_of, slots
from catdog.doctor.patient import Patient

Way = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A state to come back to."""

    ways_back: tuple[Way, ...]
    records_gradients: bool

    @classmethod
    def of(cls, patient: Patient) -> Self:
        """Keep the present state."""
        with _plain():
            return cls((*_ways(Belongings.of(patient)), _common_generators()), torch.is_grad_enabled())

    def restore(self) -> None:
        """Put it back."""
        _go(self.ways_back)
        torch._C._set_grad_enabled(self.records_gradients)


def way_back(thing: Any, patient: Patient) -> Way:
    """What puts a thing beside the patient, and all that it holds, back as it is now: a step's second optimizer, scaler or average."""
    with _plain():
        ways = tuple(_ways(Belongings.beside(patient, thing)))
    return lambda: _go(ways)


@torch.no_grad()
def _go(ways: Iterable[Way]) -> None:
    with _plain():
        for way in ways:
            way()


def _ways(found: Belongings) -> Iterator[Way]:
    yield from map(_owner, found.owners)
    yield from map(_container, found.containers)
    yield from map(_cell, found.cells)
    yield from itertools.starmap(_name, found.names)
    yield from map(_tensor, found.tensors)
    yield from _values(found.tensors)
    yield from map(_array, found.arrays)
    yield from map(_generator, found.generators)


def _plain() -> AbstractContextManager[None]:
    """Kinds of tensors that mean something else by their methods, or refuse them, are tensors inside."""
    return torch._C.DisableTorchFunctionSubclass()


def _owner(owner: Any) -> Way:
    kind, kept, training = type(owner), slots(owner), getattr(owner, "training", None)
    fill = _container(vars(owner)) if hasattr(owner, "__dict__") else _nothing

    def restore() -> None:
        if type(owner) is not kind:  # a lazy module that has become another
            owner.__class__ = kind
        fill()
        present = slots(owner)
        for name in present.keys() - kept.keys():
            object.__delattr__(owner, name)
        for name in (name for name, value in kept.items() if present.get(name, EMPTY) is not value):
            object.__setattr__(owner, name, kept[name])
        if isinstance(owner, nn.Module) and owner.training != training:  # TorchScript keeps it elsewhere
            owner.training = bool(training)

    return restore


def _container(container: Any) -> Way:
    if isinstance(container, tuple):
        return _nothing
    kept = copy.copy(container)

    def restore() -> None:
        if _same(container, kept):
            return
        container.clear()
        container.extend(kept) if isinstance(container, (list, deque)) else container.update(kept)

    return restore


def _nothing() -> None:
    pass


def _same(one: Any, other: Any) -> bool:
    """Whether two containers hold the same things, not merely equal ones."""
    if len(one) != len(other):
        return False
    if isinstance(one, dict) and any(first is not second for first, second in zip(one.values(), other.values(), strict=True)):
        return False
    return all(first is second for first, second in zip(one, other, strict=True))


def _cell(cell: CellType) -> Way:
    kept = content_of(cell)

    def restore() -> None:
        if kept is not EMPTY:
            cell.cell_contents = kept

    return restore


def _name(namespace: dict[str, Any], name: str) -> Way:
    kept = namespace[name]
    return lambda: namespace.__setitem__(name, kept)


def _tensor(tensor: Tensor) -> Way:
    """All but the values."""
    kind, there, required, is_leaf, gradient = type(tensor), tensor.data, tensor.requires_grad, tensor.is_leaf, gradient_of(tensor)

    def restore() -> None:
        if type(tensor) is not kind:
            tensor.__class__ = kind
        if is_leaf and not tensor.is_leaf:
            tensor.detach_()
        now = tensor.data
        if now.dtype != there.dtype or now.layout != there.layout or now.device != there.device or not _is_set_to(now, there):
            tensor.data = there
        if is_leaf and tensor.requires_grad != required:
            tensor.requires_grad_(required)
        if gradient_of(tensor) is not gradient:
            tensor.grad = gradient

    return restore


def _is_set_to(one: Tensor, other: Tensor) -> bool:
    return one.layout == torch.strided and one.is_set_to(other)


def _values(tensors: Iterable[Tensor]) -> Iterator[Way]:
    """The numbers, each storage once; what has none is kept as a tensor."""
    storages: dict[tuple[torch.device, int], torch.UntypedStorage] = {}
    for tensor in tensors:
        if tensor.is_meta or is_lazy(tensor):
            continue
        try:
            storage = tensor.untyped_storage()
            storages[storage.device, storage.data_ptr()] = storage
        except (NotImplementedError, RuntimeError):
            yield _without_storage(tensor)
    yield from map(_storage, (storage for storage in storages.values() if storage.nbytes()))


def _storage(storage: torch.UntypedStorage) -> Way:
    kept: torch.UntypedStorage = storage.clone()  # type: ignore[no-untyped-call]

    def restore() -> None:
        storage.copy_(kept)

    return restore


def _without_storage(tensor: Tensor) -> Way:
    kept = tensor.detach().clone()

    def restore() -> None:
        tensor.data = kept.clone()

    return restore


def _array(array: NDArray[Any]) -> Way:
    kept = array.copy()

    def restore() -> None:
        if array.flags.writeable:
            array[...] = kept

    return restore


def _generator(generator: Generator) -> Way:
    state = _state_of(generator)

    def restore() -> None:
        if isinstance(generator, np.random.Generator):
            generator.bit_generator.state = state
        elif isinstance(generator, random.Random):
            generator.setstate(state)
        else:
            generator.set_state(state)

    return restore


def _state_of(generator: Generator) -> Any:
    if isinstance(generator, np.random.Generator):
        return copy.deepcopy(generator.bit_generator.state)
    return generator.getstate() if isinstance(generator, random.Random) else generator.get_state()


def _common_generators() -> Way:
    state = random_state()
    return lambda: restore_random_state(state)


def digest(patient: Patient) -> str:
    """A hash of all that a Snapshot keeps: equal before and after an examination. Good in one process."""
    hashed = hashlib.sha256()  # the quickest of hashlib where the processor knows it
    with _plain():
        for said in _said(Belongings.of(patient)):
            hashed.update(said if isinstance(said, (bytes, memoryview)) else repr(said).encode())
    return hashed.hexdigest()


def _said(found: Belongings) -> Iterator[Any]:
    def told(thing: Any) -> Any:
        """What a thing is where something else holds it: its place in the order, or itself if it holds nothing."""
        if id(thing) in found.numbers:
            return found.numbers[id(thing)]
        return repr(thing) if isinstance(thing, (int, float, complex, str, bytes, type(None))) else type(thing).__qualname__

    for owner in found.owners:
        yield type(owner).__qualname__, sorted((name, told(value)) for name, value in attributes(owner).items())
        yield getattr(owner, "training", None) if isinstance(owner, nn.Module) else None
    for container in found.containers:
        keys = [told(key) for key in container] if not isinstance(container, set) else sorted(map(str, map(told, container)))
        yield type(container).__qualname__, keys, [told(value) for value in container.values()] if isinstance(container, dict) else None
    yield [told(content_of(cell)) for cell in found.cells]
    yield [(name, told(namespace.get(name))) for namespace, name in found.names]
    for tensor in found.tensors:
        yield type(tensor).__qualname__, tensor.requires_grad, tensor.dtype, told(gradient_of(tensor))
        yield from _told(tensor)
    for array in found.arrays:
        yield array.dtype, array.shape, array.tolist() if array.dtype.hasobject else array.tobytes()
    yield [str(_state_of(one).tolist() if isinstance(one, torch.Generator) else _state_of(one)) for one in found.generators]
    yield torch.is_grad_enabled()
    for state in random_state().values():
        yield from _told(state)


def _told(tensor: Tensor) -> Iterator[Any]:
    """Shape and numbers of a tensor."""
    if is_lazy(tensor):
        return
    yield tuple(tensor.shape)
    if tensor.is_meta:
        return
    tensor = tensor.detach()
    try:
        yield tensor.stride()
        flat = (torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor).resolve_neg().cpu().contiguous().flatten()
        yield flat.view(torch.uint8).numpy().data
    except (NotImplementedError, RuntimeError):  # sparse, quantised, somebody's own kind
        buffer = io.BytesIO()
        torch.save(tensor, buffer)
        yield buffer.getvalue()
