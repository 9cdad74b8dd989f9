"""Belongings: everything of a patient that a training step can change, found by going through it.

From the network, the loss, the optimizer, the step and what else there is, through attributes, containers, closures and the globals
that a function names: a teacher, a second optimizer, a scaler or a counter that only the step knows is found as well. Not gone into are
classes, modules of Python, the standard library, and objects of installed libraries that have no state to save.
"""

import builtins
import dis
import functools
import random
import sys
import sysconfig
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import CellType, CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset

from catdog.doctor.patient import Patient

LONG = 10_000
"""Entries. What a longer list or dict holds is data and not gone into."""
LOOSE = 64 * 2**20
"""Bytes. A larger tensor or array that belongs to no module and no optimizer is data and not kept."""

Generator = np.random.Generator | np.random.RandomState | random.Random | torch.Generator
_GENERATORS = (np.random.Generator, np.random.RandomState, random.Random, torch.Generator)
_CONTAINERS = (dict, list, set, deque, tuple)
_STATEFUL = (nn.Module, Optimizer, LRScheduler, torch.amp.GradScaler)
_LIBRARIES = tuple({*map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib"))})
_LEAVES = (type(None), bool, int, float, complex, str, bytes, type, ModuleType, CodeType, torch.dtype, torch.device, torch.Size)

Mode = Literal["state", "loose", "data"]
"""What a thing is part of. Of data only attributes and generators are kept: nothing trains it, and there can be much of it."""


@dataclass(slots=True)
class Belongings:
    """What there is, in the order in which it was come upon: the same patient in the same state gives the same order."""

    owners: list[Any] = field(default_factory=list)
    """With attributes."""
    containers: list[Any] = field(default_factory=list)
    cells: list[CellType] = field(default_factory=list)
    """Variables of a function around another."""
    names: list[tuple[dict[str, Any], str]] = field(default_factory=list)
    """Variables of a file: the file's namespace and the name."""
    tensors: list[Tensor] = field(default_factory=list)
    arrays: list[NDArray[Any]] = field(default_factory=list)
    generators: list[Generator] = field(default_factory=list)
    numbers: dict[int, int] = field(default_factory=dict)
    """id of a thing -> its place in the order."""
    _kept: list[Any] = field(default_factory=list)
    """So that no id is given twice."""

    @classmethod
    def of(cls, patient: Patient) -> "Belongings":
        """Go through a patient."""
        found = cls()
        found._go(_open(patient), "state")
        found._go((patient.batch, patient.step, patient.evaluate, patient.schedule), "loose")
        found._go((patient.data, patient.training, patient.serving), "data")
        return found

    @classmethod
    def beside(cls, patient: Patient, thing: Any) -> "Belongings":
        """Go through a thing that has a state, a second optimizer of a step for one; what is openly the patient's is left out."""
        known = cls()
        known._go(_open(patient), "state")
        found = cls(numbers=known.numbers)
        found._go((thing,), "state")
        return found

    def _go(self, roots: Iterable[Any], mode: Mode) -> None:
        left = [(root, mode) for root in reversed(list(roots))]
        while left:
            thing, mode = left.pop()
            if isinstance(thing, _LEAVES) or id(thing) in self.numbers:
                continue
            self.numbers[id(thing)] = len(self.numbers)
            self._kept.append(thing)
            if isinstance(thing, (Dataset, DataLoader)):
                mode = "data"
            elif isinstance(thing, _STATEFUL):
                mode = "state"
            left += [(part, mode) for part in reversed(list(self._inside(thing, mode)))]

    def _inside(self, thing: Any, mode: Mode) -> Iterator[Any]:
        """Note a thing as what it is; yields what it holds."""
        if isinstance(thing, (Tensor, np.ndarray)):
            yield from self._values(thing, mode)
        elif isinstance(thing, _CONTAINERS):
            if len(thing) <= LONG or mode != "data":
                self.containers.append(thing)
            if len(thing) <= LONG:
                yield from thing.values() if isinstance(thing, dict) else thing
        elif isinstance(thing, _GENERATORS):
            if not isinstance(thing, random.SystemRandom):
                self.generators.append(thing)
        elif isinstance(thing, (MethodType, functools.partial, FunctionType, CellType)):
            yield from self._of_callable(thing)
        elif _has_state(thing):
            self.owners.append(thing)
            yield from attributes(thing).values()
            if isinstance(thing, nn.Module):  # TorchScript keeps them elsewhere
                yield from (*thing.parameters(recurse=False), *thing.buffers(recurse=False), *thing.children())

    def _values(self, thing: Tensor | NDArray[Any], mode: Mode) -> Iterator[Any]:
        if mode == "data" or (mode == "loose" and not isinstance(thing, nn.Parameter) and thing.nbytes > LOOSE):
            return
        if isinstance(thing, np.ndarray):
            self.arrays.append(thing)
            return
        self.tensors.append(thing)
        yield from vars(thing).values()
        if (gradient := gradient_of(thing)) is not None:
            yield gradient

    def _of_callable(self, thing: Any) -> Iterator[Any]:
        if isinstance(thing, MethodType):
            yield from (thing.__self__, thing.__func__)
        elif isinstance(thing, functools.partial):
            yield from (thing.func, thing.args, thing.keywords)
        elif isinstance(thing, CellType):
            self.cells.append(thing)
            if (content := content_of(thing)) is not EMPTY:
                yield content
        else:
            yield from (*(thing.__closure__ or ()), thing.__defaults__, thing.__kwdefaults__, vars(thing))
            is_theirs = not thing.__code__.co_filename.startswith((*_LIBRARIES, "<frozen"))
            for name in _globals_in(thing.__code__) if is_theirs else ():
                if name in thing.__globals__ or not hasattr(builtins, name):
                    self.names.append((thing.__globals__, name))
                    yield thing.__globals__.get(name)


def _open(patient: Patient) -> tuple[Any, ...]:
    return patient.model, patient.loss, patient.optimizer, patient.scheduler, patient.scaler


EMPTY = object()
"""In place of what is not there."""


def attributes(owner: Any) -> dict[str, Any]:
    """The attributes of a thing itself, not of its class; those of __slots__ as well."""
    return slots(owner) | getattr(owner, "__dict__", {})


def slots(owner: Any) -> dict[str, Any]:
    """The attributes that __slots__ of its classes hold."""
    names = [_mangled(name, kind) for kind in type(owner).__mro__ for name in _names(kind.__dict__.get("__slots__", ()))]
    found = {name: getattr(owner, name, EMPTY) for name in names if name not in ("__dict__", "__weakref__")}
    return {name: value for name, value in found.items() if value is not EMPTY}


def gradient_of(tensor: Tensor) -> Tensor | None:
    """`tensor.grad`, without torch's warning where there can be none."""
    return tensor.grad if tensor.is_leaf or tensor.retains_grad else None


def _names(slots: str | Iterable[str]) -> Iterable[str]:
    return (slots,) if isinstance(slots, str) else slots


def _mangled(name: str, kind: type) -> str:
    """A private name as Python keeps it."""
    return f"_{kind.__name__.lstrip('_')}{name}" if name.startswith("__") and not name.endswith("__") else name


def content_of(cell: CellType) -> Any:
    """What is in a cell; EMPTY where there is nothing."""
    try:
        return cell.cell_contents
    except ValueError:  # a variable that has no value yet
        return EMPTY


def _has_state(thing: Any) -> bool:
    """Whether its attributes are to be kept: of somebody's own class, or of a library's that has a state or holds what has one."""
    kind = type(thing)
    if isinstance(thing, (*_STATEFUL, Dataset, DataLoader, SimpleNamespace)):
        return True
    if kind.__module__.partition(".")[0] in sys.stdlib_module_names:
        return False
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    if file is None or not file.startswith(_LIBRARIES) or callable(getattr(kind, "state_dict", None)):
        return True
    return any(isinstance(value, _STATEFUL) for value in getattr(thing, "__dict__", {}).values())


@functools.lru_cache(maxsize=1024)
def _globals_in(code: CodeType) -> tuple[str, ...]:
    """The names of a file that a function, or one inside it, reads or sets."""
    names = {one.argval: None for one in dis.get_instructions(code) if one.opname in ("LOAD_GLOBAL", "STORE_GLOBAL")}
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            names |= dict.fromkeys(_globals_in(inner))
    return tuple(names)
