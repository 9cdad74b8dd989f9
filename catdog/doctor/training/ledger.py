"""Ledger, Forward, ledger_of, plain: a short training of the owner's, watched: which picture of which split was read when, and what for.

Reads are heard where a data set is asked for an item, forwards where a network is called from outside, steps where torch's optimizer
makes one. Behind a DataLoader with workers only the order of the positions is heard, and no forward is matched with its pictures.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import dataloader

from catdog.doctor.examination import CannotTell
from catdog.doctor.patient import ANY_ERROR, Data, Patient, logits_of, tensors_in
from catdog.doctor.source import Place, callers

LARGE = 30_000_000
"""Parameters; of a larger network no state is kept at each validation."""
Position = tuple[str, int]
"""Split and position in it."""


@dataclass(slots=True)
class Forward:
    """A call of a network from outside."""

    when: int
    """Number of reads before it."""
    steps: int
    """Number of optimizer steps before it."""
    read: tuple[Position, ...]
    """What it was made of; empty where nobody knows."""
    logits: Tensor
    """(N, ...) what it answered."""
    goes_back: bool
    """Whether a gradient came back through it."""
    batch: tuple[object, ...]
    """Two batches with the same are the same."""
    places: tuple[Place, ...]
    """The lines that called it, the innermost first."""
    state: Mapping[str, Tensor] = field(default_factory=dict)
    """Of the network, at the first forward of an evaluation."""


@dataclass(slots=True)
class Ledger:
    """What a training did."""

    reads: list[Position] = field(default_factory=list)
    forwards: list[Forward] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    """For each optimizer step: the number of forwards before it."""
    is_matched: bool = True
    """Whether forwards are matched with what was read."""
    history: Sequence[Mapping[str, float]] = ()

    def of(self, split: str) -> list[int]:
        """The positions of a split that were read, in order."""
        return [position for name, position in self.reads if name == split]

    def trained(self) -> Iterator[list[Forward]]:
        """For each step: the forwards whose gradients it had."""
        start = 0
        for end in self.steps:
            yield [forward for forward in self.forwards[start:end] if forward.goes_back]
            start = end

    def evaluations(self, split: str) -> list[list[Forward]]:
        """The passes over a split between two steps: its forwards, in order."""
        passes: dict[int, list[Forward]] = {}
        for forward in self.forwards:
            if forward.read and not forward.goes_back and {name for name, _ in forward.read} == {split}:
                passes.setdefault(forward.steps, []).append(forward)
        return list(passes.values())


def ledger_of(patient: Patient) -> Ledger:
    """Watch `fit` once; the second time nothing is trained.

    Raises:
        CannotTell: there is nothing to watch, or it fails.
    """
    if patient.training is None or patient.data is None:
        raise CannotTell("no training to watch")
    if "ledger" not in patient.known:
        watch = _Watch(patient.data)
        with watch.listening():
            try:
                watch.ledger.history = list(patient.training.fit())
            except ANY_ERROR as error:
                raise CannotTell(f"the short training fails: {type(error).__name__}: {error}"[:300]) from error
        patient.known["ledger"] = watch.ledger
    found: Ledger = patient.known["ledger"]
    return found


class _Watch:
    """Writes a ledger."""

    def __init__(self, data: Data) -> None:
        self.ledger = Ledger()
        self._data = data
        self._pending: list[Position] = []
        self._depth = 0
        self._evaluated: set[tuple[int, str | None]] = set()
        self._known: dict[int, tuple[object, str | None]] = {}

    def listening(self) -> ExitStack:
        """For as long as it is open, everything is written down."""
        stack = ExitStack()
        kinds = {type(split.items) for split in self._data.splits.values()}
        for kind in kinds:
            if "__getitem__" in dir(kind) and kind.__module__ != "builtins":
                stack.enter_context(patch.object(kind, "__getitem__", self._reading(kind.__getitem__)))
        iterator = dataloader._BaseDataLoaderIter
        if hasattr(iterator, "_next_index"):
            stack.enter_context(patch.object(iterator, "_next_index", self._fetching(iterator._next_index)))
        stack.callback(hooks.register_module_forward_pre_hook(self._before).remove)
        stack.callback(hooks.register_module_forward_hook(self._behind, always_call=True).remove)
        stack.callback(register_optimizer_step_post_hook(lambda *_: self.ledger.steps.append(len(self.ledger.forwards))).remove)
        return stack

    def _reading(self, original: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        def getitem(items: Any, position: Any) -> Any:
            if isinstance(position, int) and (split := self._split_of(items)) is not None:
                self._note(split, position % len(self._data.splits[split].paths))
            return original(items, position)

        return getitem

    def _fetching(self, original: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def next_index(iterator: Any) -> Any:
            index = original(iterator)
            if getattr(iterator, "_num_workers", 0):
                self.ledger.is_matched = False
                for position in index if isinstance(index, list) else [index]:
                    self._note_through(iterator._dataset, position)
            return index

        return next_index

    def _note_through(self, dataset: Any, position: int) -> None:
        """A read in a worker, through any number of Subsets."""
        while hasattr(dataset, "indices") and hasattr(dataset, "dataset"):
            dataset, position = dataset.dataset, dataset.indices[position]
        if (split := self._split_of(dataset)) is not None:
            self._note(split, position)

    def _note(self, split: str, position: int) -> None:
        self.ledger.reads.append((split, position))
        self._pending.append((split, position))

    def _split_of(self, items: Any) -> str | None:
        """The split that a data set is: the very one, or one of the same files."""
        if id(items) not in self._known:
            same = [name for name, split in self._data.splits.items() if split.items is items]
            same = same or [name for name, split in self._data.splits.items() if _has_files(items, [str(path) for path in split.paths])]
            self._known[id(items)] = items, same[0] if same else None
        return self._known[id(items)][1]

    def _before(self, *_: object) -> None:
        self._depth += 1

    def _behind(self, network: nn.Module, inputs: tuple[Any, ...], outputs: Any) -> None:
        self._depth -= 1
        if self._depth:
            return
        logits, given = logits_of(outputs), tensors_in(inputs)
        if logits is None or not given or logits.ndim < 1 or next(network.parameters(), None) is None:
            return  # a criterion, a transform
        number = len(given[0])
        pending, self._pending = self._pending, []
        forward = Forward(
            len(self.ledger.reads), len(self.ledger.steps), tuple(pending[-number:]) if len(pending) >= number else (),
            logits.detach().cpu().clone(), goes_back=False, batch=_sketch(given[0]), places=callers(),
        )
        if logits.requires_grad:
            logits.register_hook(lambda _: setattr(forward, "goes_back", True))  # type: ignore[no-untyped-call]
        if self._begins_evaluation(forward, may_train=logits.requires_grad and network.training, network=network):
            forward.state = {plain(name): value.detach().cpu().clone() for name, value in network.state_dict().items()}
        self.ledger.forwards.append(forward)

    def _begins_evaluation(self, forward: Forward, *, may_train: bool, network: nn.Module) -> bool:
        """Whether it is the first of a pass over other pictures than train's."""
        split = forward.read[0][0] if forward.read else None
        key = forward.steps, split
        if (may_train and split in (None, "train")) or key in self._evaluated:
            return False
        self._evaluated.add(key)
        return sum(parameter.numel() for parameter in network.parameters()) <= LARGE


def plain(name: str) -> str:
    """The name of a tensor without what torch.compile, DistributedDataParallel and AveragedModel put before it."""
    return name.replace("_orig_mod.", "").removeprefix("module.")


def _has_files(items: Any, paths: Sequence[str]) -> bool:
    """Whether some attribute of a data set lists these files, or what begins with one."""
    if not paths:
        return False
    for value in getattr(items, "__dict__", {}).values():
        if isinstance(value, (list, tuple)) and len(value) == len(paths) and all(_names(value[end], paths[end]) for end in (0, -1)):
            return True
    return False


def _names(value: Any, path: str) -> bool:
    parts = value if isinstance(value, (list, tuple)) else [value]
    return any(str(part) == path for part in parts)


def _sketch(batch: Tensor) -> tuple[object, ...]:
    flat = batch.detach().flatten()
    return tuple(batch.shape), float(flat.double().sum()), tuple(flat[:: max(1, len(flat) // 64)].tolist())


