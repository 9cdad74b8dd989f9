"""ways, go, plain: how each kind of thing that belongs to a patient is put back as it was.

A way is made while the thing is as it shall be, and gone later. Things keep their identity: what somebody holds a reference to is what
is put back. Of tensors whole storages are kept, so that views, expanded and shared tensors are what they were.
"""

import copy
import itertools
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from types import CellType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from catdog.device import random_state, restore_random_state
from catdog.doctor.belongings import EMPTY, Belongings, Generator, content_of, gradient_of, slots

Way = Callable[[], None]


def ways(found: Belongings) -> Iterator[Way]:
    """The way back of everything found."""
    yield from map(_owner, found.owners)
    yield from map(_container, found.containers)
    yield from map(_cell, found.cells)
    yield from itertools.starmap(_name, found.names)
    yield from map(_tensor, found.tensors)
    yield from _values(found.tensors)
    yield from map(_array, found.arrays)
    yield from map(_generator, found.generators)


@torch.no_grad()
def go(ways: Iterable[Way]) -> None:
    """Go them all."""
    with plain():
        for way in ways:
            way()


def plain() -> AbstractContextManager[None]:
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
        elif content_of(cell) is not EMPTY:
            del cell.cell_contents

    return restore


def _name(namespace: dict[str, Any], name: str) -> Way:
    kept = namespace.get(name, EMPTY)

    def restore() -> None:
        if kept is EMPTY:
            namespace.pop(name, None)
        else:
            namespace[name] = kept

    return restore


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
        if storage.nbytes() != kept.nbytes():
            storage.resize_(kept.nbytes())
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
    state = state_of(generator)

    def restore() -> None:
        if isinstance(generator, np.random.Generator):
            generator.bit_generator.state = state
        elif isinstance(generator, random.Random):
            generator.setstate(state)
        else:
            generator.set_state(state)

    return restore


def state_of(generator: Generator) -> Any:
    """What a generator goes on from."""
    if isinstance(generator, np.random.Generator):
        return copy.deepcopy(generator.bit_generator.state)
    return generator.getstate() if isinstance(generator, random.Random) else generator.get_state()


def common_generators() -> Way:
    """The way back of the generators that everybody draws from."""
    state = random_state()
    return lambda: restore_random_state(state)
