"""Event, Tape, recording: what a training step does, in order, and which line does it.

The step is the owner's own and stays as it is: for as long as a recording lasts, torch itself tells what is called. One recording at
a time, in one thread.
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

from catdog.doctor.patient import Patient
from catdog.doctor.source import Place, caller

Kind = Literal[
    "forward",  # of: what the network returned
    "loss",  # of: what the criterion returned
    "zero",  # of: the optimizer or module
    "backward",  # of: the tensor it starts from
    "unscale", "clip", "update",
    "step",  # of: the optimizer, before it moves anything
    "stepped",  # of: the optimizer, behind it
    "schedule", "train", "eval",
]


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened."""

    kind: Kind
    place: Place | None
    of: Any


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
        return [event.of for event in self.of("backward")] or [event.of for event in self.of("loss")]


_HEARD: tuple[tuple[Kind, Any, str], ...] = (
    ("zero", Optimizer, "zero_grad"), ("zero", nn.Module, "zero_grad"), ("backward", torch.autograd, "backward"),
    ("clip", clip_grad, "_clip_grads_with_norm_"), ("clip", nn.utils, "clip_grads_with_norm_"), ("clip", nn.utils, "clip_grad_value_"),
    ("unscale", torch.amp.GradScaler, "unscale_"), ("update", torch.amp.GradScaler, "update"), ("schedule", LRScheduler, "step"),
)
"""What of torch is heard under which name. The innermost functions, which a name imported earlier calls as well."""


@contextmanager
def recording(patient: Patient, *, on_event: Callable[[Event], None] | None = None) -> Iterator[Tape]:
    """Note what happens inside; `on_event` is called while it happens, before a backward and before a step that it is about.

    A criterion that is a module is heard wherever it is called; a function only where the step calls the one it is handed.
    """
    tape = Tape()

    def note(kind: Kind, of: Any) -> None:
        if torch._C._current_graph_task_id() != -1:
            return  # a checkpoint that computes its part again, inside a backward
        event = Event(kind, caller(), of)
        tape.events.append(event)
        if on_event is not None:
            on_event(event)

    def before(kind: Kind, owner: Any, name: str) -> Any:
        original = getattr(owner, name)

        def noted(*arguments: Any, **options: Any) -> Any:
            note(kind, arguments[0] if arguments else None)
            return original(*arguments, **options)

        return patch.object(owner, name, noted)

    with ExitStack() as stack:
        for heard in _HEARD:
            stack.enter_context(before(*heard))
        if patient.scheduler is not None and "step" in vars(type(patient.scheduler)):  # a kind that has its own
            stack.enter_context(before("schedule", type(patient.scheduler), "step"))
        stack.enter_context(patch.object(nn.Module, "train", _outermost(nn.Module.train, note)))
        stack.enter_context(_hearing(patient, note))
        stack.callback(patient.model.register_forward_hook(lambda *call: note("forward", call[-1])).remove)
        stack.callback(register_optimizer_step_pre_hook(lambda *call: note("step", call[0])).remove)
        stack.callback(register_optimizer_step_post_hook(lambda *call: note("stepped", call[0])).remove)
        yield tape


@contextmanager
def _hearing(patient: Patient, note: Callable[[Kind, Any], None]) -> Iterator[None]:
    """Note what the criterion returns."""
    if isinstance(patient.loss, nn.Module):
        handle = patient.loss.register_forward_hook(lambda *call: note("loss", call[-1]))
        try:
            yield
        finally:
            handle.remove()
    elif (original := patient.loss) is not None:

        def noted(*arguments: Any) -> Any:
            result = original(*arguments)
            note("loss", result)
            return result

        with patch.object(patient, "loss", noted):
            yield
    else:
        yield


def _outermost(original: Callable[[nn.Module, bool], nn.Module], note: Callable[[Kind, Any], None]) -> Callable[..., nn.Module]:
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
