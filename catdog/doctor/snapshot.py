"""Snapshot, way_back, digest: everything of a patient that an examination could change, and the way back.

Of all that Belongings finds: attributes, contents, values, gradients, flags; and the generators of torch, CUDA, NumPy and Python.
"""

import ctypes
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from catdog.device import random_state
from catdog.doctor.belongings import Belongings, attributes, content_of, gradient_of
from catdog.doctor.patient import Patient
from catdog.doctor.ways import Way, common_generators, go, plain, state_of, ways


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A state to come back to."""

    ways_back: tuple[Way, ...]
    records_gradients: bool

    @classmethod
    def of(cls, patient: Patient) -> Self:
        """Keep the present state."""
        with plain():
            return cls((*ways(Belongings.of(patient)), common_generators()), torch.is_grad_enabled())

    def restore(self) -> None:
        """Put it back."""
        go(self.ways_back)
        torch._C._set_grad_enabled(self.records_gradients)


def way_back(thing: Any, patient: Patient) -> Way:
    """What puts a thing beside the patient, and all that it holds, back as it is now: a step's second optimizer, scaler or average."""
    with plain():
        back = tuple(ways(Belongings.beside(patient, thing)))
    return lambda: go(back)


def digest(patient: Patient) -> str:
    """A hash of all that a Snapshot keeps: equal before and after an examination. It says nothing to another process."""
    hashed = hashlib.sha256()  # the quickest of hashlib where the processor knows it
    with plain():
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
    yield [str(state_of(one).tolist() if isinstance(one, torch.Generator) else state_of(one)) for one in found.generators]
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
        flat = tensor.resolve_conj().resolve_neg().cpu().contiguous()
        if flat.nbytes:  # not by numpy(): nobody could resize the tensor's storage from then on
            yield memoryview((ctypes.c_ubyte * flat.nbytes).from_address(flat.data_ptr()))
    except (NotImplementedError, RuntimeError):  # sparse, quantised, somebody's own kind
        buffer = io.BytesIO()
        torch.save(tensor, buffer)
        yield buffer.getvalue()
