"""Event, Tape, recording: what a training step does, in order, and which line does it.

The step is the owner's own and stays as it is: for as long as a recording lasts, torch itself tells what is called. One recording at
a time, in one thread. Optimizers, schedulers, scalers and averages that only the step knows are put back when it ends.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.optim.swa_utils import AveragedModel

from catdog.doctor.patient import Patient
from catdog.doctor.snapshot import way_back
from catdog.doctor.source import Place, caller

Kind = Literal[
    "forward",  # of: what the network returned; given: its inputs
    "loss",  # of: what the criterion returned; given: (what the network returned, target)
    "zero",  # of: the optimizer or module
    "backward",  # of: the tensor it starts from
    "gradient",  # of: the tensor that torch.autograd.grad starts from
    "scale",  # of: the scaler; given: the loss
    "unscale", "update",  # of: the scaler
    "attempt",  # of: the scaler, which then steps or leaves it out; given: the optimizer
    "clip",  # of: the parameters
    "step",  # of: the optimizer, before it moves anything; given: the closure, if there is one
    "stepped",  # of: the optimizer, behind it
    "schedule",  # of: the scheduler
    "average",  # of: the averaged network
    "train", "eval",  # of: the module
]


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened."""

    kind: Kind
    place: Place | None
    of: Any
    given: tuple[Any, ...] = ()
    """What it was called with beside."""


@dataclass(slots=True)
class Tape:
    """What happened, in order."""

    events: list[Event] = field(default_factory=list)

    def of(self, *kinds: Kind) -> list[Event]:
        """The events of some kinds."""
        return [event for event in self.events if event.kind in kinds]

    @property
    def losses(self) -> list[Tensor]:
        """The tensors that a backward started from; where there was none, what the criterion returned."""
        return [event.of for event in self.of("backward", "gradient")] or [event.of for event in self.of("loss")]


_HEARD: tuple[tuple[Kind, Any, str], ...] = (
    ("zero", Optimizer, "zero_grad"), ("zero", nn.Module, "zero_grad"), ("backward", torch.autograd, "backward"),
    ("gradient", torch.autograd, "grad"),
    ("clip", clip_grad, "_clip_grads_with_norm_"), ("clip", nn.utils, "clip_grads_with_norm_"), ("clip", nn.utils, "clip_grad_value_"),
    ("clip", clip_grad, "clip_grad_value_"),
    ("scale", torch.amp.GradScaler, "scale"), ("unscale", torch.amp.GradScaler, "unscale_"), ("attempt", torch.amp.GradScaler, "step"),
    ("update", torch.amp.GradScaler, "update"), ("schedule", LRScheduler, "step"), ("average", AveragedModel, "update_parameters"),
)
"""What of torch is heard under which name. The innermost functions, which a name imported earlier calls as well."""


@contextmanager
def recording(patient: Patient, *, on_event: Callable[[Event], None] | None = None) -> Iterator[Tape]:
    """Note what happens inside; `on_event` is called while it happens, before a backward and before a step that it is about.

    A criterion that is a module is heard wherever it is called; a function only where the step calls the one it is handed.
    """
    tape = Tape()
    ways_back: dict[int, Callable[[], None]] = {}

    def note(kind: Kind, of: Any, *given: Any) -> None:
        if torch._C._current_graph_task_id() != -1:
            return  # a checkpoint that computes its part again, inside a backward
        event = Event(kind, caller(), of, given)
        tape.events.append(event)
        if kind in ("step", "schedule", "scale", "attempt", "average") and not _is_kept(patient, of):
            ways_back.setdefault(id(of), way_back(of, patient))
        if on_event is not None:
            on_event(event)

    with ExitStack() as stack:
        stack.callback(lambda: [way() for way in ways_back.values()])
        for kind, owner, name in _HEARD:
            stack.enter_context(patch.object(owner, name, _noted(kind, getattr(owner, name), note)))
        if patient.scheduler is not None and "step" in vars(type(patient.scheduler)):  # a kind that has its own
            own = type(patient.scheduler)
            stack.enter_context(patch.object(own, "step", _noted("schedule", own.step, note)))
        stack.enter_context(patch.object(nn.Module, "train", _outermost(nn.Module.train, note)))
        stack.enter_context(_hearing(patient, note))
        if not isinstance(patient.model, torch.jit.ScriptModule):  # some of them refuse a hook
            handle = patient.model.register_forward_hook(lambda _, inputs, outputs: note("forward", outputs, *inputs))
            stack.callback(handle.remove)
        stack.callback(register_optimizer_step_pre_hook(lambda own, given, named: note("step", own, *given[1:], *named.values())).remove)
        stack.callback(register_optimizer_step_post_hook(lambda *call: note("stepped", call[0])).remove)
        yield tape


def _is_kept(patient: Patient, owner: Any) -> bool:
    """Whether a Snapshot keeps it anyway."""
    return any(owner is own for own in (patient.model, patient.optimizer, patient.scheduler, patient.scaler))


def _noted(kind: Kind, original: Any, note: Callable[..., None]) -> Callable[..., Any]:
    """Once: where torch hands a call on, it may come by again under the same name."""
    is_inside = False

    def noted(*arguments: Any, **options: Any) -> Any:
        nonlocal is_inside
        if is_inside:
            return original(*arguments, **options)
        note(kind, *(arguments or options.values()))
        is_inside = True
        try:
            return original(*arguments, **options)
        finally:
            is_inside = False

    return noted


@contextmanager
def _hearing(patient: Patient, note: Callable[..., None]) -> Iterator[None]:
    """Note what the criterion returns."""
    if isinstance(patient.loss, nn.Module):
        handle = patient.loss.register_forward_hook(lambda _, given, result: note("loss", result, *given))
        try:
            yield
        finally:
            handle.remove()
    elif (original := patient.loss) is not None:

        def noted(*arguments: Any, **options: Any) -> Any:
            result = original(*arguments, **options)
            note("loss", result, *arguments)
            return result

        with patch.object(patient, "loss", noted):
            yield
    else:
        yield


def _outermost(original: Callable[[nn.Module, bool], nn.Module], note: Callable[..., None]) -> Callable[..., nn.Module]:
    """Module.train, which calls itself for every child, noted once."""
    depth = 0

    def train(module: nn.Module, mode: bool = True) -> nn.Module:
        nonlocal depth
        if depth == 0:
            note("train" if mode else "eval", module)
        depth += 1
        try:
            return original(module, mode)
        finally:
            depth -= 1

    return train
