"""M06 zero gradient: modules that are computed, reach the loss, and never learn, because their gradient is exactly zero."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from catdog.doctor.examination import CannotTell, Examination, examination
from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.model.evidence import is_in
from catdog.doctor.model.flow import Cut, cut_behind
from catdog.doctor.model.redraw import Weights, answers, mode, seeded, settle, strangers
from catdog.doctor.model.trace import eager
from catdog.doctor.patient import Patient
from catdog.doctor.source import Place, module_caller

STEPS, STARTS = 3, 2
"""Of plain gradient descent, and batches that they begin anew with. A head and a residual gain of zero are over after two steps."""
RATE = 1e-3
DRAWS, NEAR = 8, 2
"""Other weights that a gradient must be zero at as well; and those of them, the first, whose signs are those of the start."""
MANY = 20
"""Channels that a dead activation must have before its signs are no accident: 2 ** -20."""


@examination(
    "M06", "zero gradient", catches="a branch times zero, a dead activation, a saturated gate", needs=("loss",),
    passes=STEPS,
)
def zero_gradient(patient: Patient) -> Iterator[Finding]:
    """A whole module whose gradient is zero at every step, at every other weights, and of the outputs as of the loss, is an error.

    The second witness asks the outputs, not the loss, in evaluation, at drawn weights. What the structure makes zero stays zero there;
    so does, while all signs stay, an activation that is dead throughout. What is revived at once is a start or data that warn.
    """
    network = eager(patient.model)
    silent = {name for name in _silent(patient) if not patient.intent.waives(name)}
    if not silent:
        return
    lasting, near = _lasting(patient, silent)
    called = _called(patient)
    told: set[str] = set()
    for names, is_structure in ((lasting, True), (near, False)):
        parts = [_Part(network, path, inside) for path, inside in _whole_modules(network, names - told).items()]
        parts = [part for part in parts if any(is_in(one, part.path) for one in called)]
        groups: dict[Place | None, list[tuple[_Part, Cut]]] = {}
        for part in parts:
            cut = _cut(patient, part)
            # What a router chooses it may choose otherwise for other images; of a few channels the signs may be an accident.
            if cut is not None and not cut.is_chosen and (is_structure or cut.channels >= MANY):
                groups.setdefault(cut.place, []).append((part, cut))
        for group in groups.values():
            yield _finding([part for part, _ in group], group[0][1], is_structure=is_structure)
            told.update(name for part, _ in group for name in part.names)
    if not told:  # else the rest is behind what was told
        yield from _at_this_start(patient, network, silent)


def _at_this_start(patient: Patient, network: nn.Module, silent: set[str]) -> Iterator[Finding]:
    parts = [_Part(network, path, inside) for path, inside in _whole_modules(network, silent).items()]
    whole = {name for part in parts for name in part.names}
    # A shift before a normalisation, or of the keys of attention, has no gradient by design.
    names = [part.path or type(network).__name__ for part in parts]
    names += sorted(name for name in silent - whole if network.get_parameter(name).ndim > 1)
    if names:
        place = _call_of(patient, parts[0]) if parts else None
        yield Finding(
            "M06", "warning", f"{', '.join(names[:5])}{' and others' if len(names) > 5 else ''}: the gradient is exactly zero",
            Culprit(names[0], str(place) if place else None),
            (
                f"{len(silent)} tensors, over {STEPS} steps from {STARTS} starts",
                "at other weights the outputs have a gradient, or nothing calls the module: it is the start, the data or the loss",
            ),
            "If it stays so when training has begun, see what they are multiplied with.",
        )


@dataclass(frozen=True, slots=True)
class _Part:
    """A module, all of whose trainable parameters are silent."""

    network: nn.Module
    path: str
    names: list[str]

    @property
    def module(self) -> nn.Module:
        return self.network.get_submodule(self.path)

    @property
    def numbers(self) -> int:
        return sum(self.network.get_parameter(name).numel() for name in self.names)


def _finding(parts: list[_Part], cut: Cut, *, is_structure: bool) -> Finding:
    network = parts[0].network
    total = sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
    names = ", ".join(part.path or type(network).__name__ for part in parts)
    others = f"{DRAWS} other weights" if is_structure else f"{NEAR} other weights of the same signs"
    return Finding(
        "M06", "error", f"{names} {'is' if len(parts) == 1 else 'are'} computed and never learn{'s' if len(parts) == 1 else ''}: "
        "the gradient is exactly zero",
        Culprit(names, str(cut.place) if cut.place else None, parameters=sum(part.numbers for part in parts) / max(1, total)),
        (
            f"all {sum(len(part.names) for part in parts)} tensors, over {STEPS} steps from {STARTS} starts: exactly 0",
            f"the gradient of the outputs is 0 as well, in evaluation, at {others} and inputs",
            f"it ends at {cut}, of {cut.channels} channels",
        ),
        f"Look at {cut.place}: {cut.place.text}" if cut.place is not None else f"Look at {cut}.",
    )


def _silent(patient: Patient) -> set[str]:
    """Names of parameters that got gradients, all of them zero, at every step from every start, and one at least behind the others.

    Layers that are left out at random may have had theirs only at a start where the head is zero.
    """
    network, (inputs, target) = eager(patient.model), patient.batch
    trainable = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    weights = Weights(network)
    reached, late, learning = set[str](), set[str](), set[str]()
    for start in range(STARTS):
        weights.back()
        looked_at = inputs if start == 0 else strangers(inputs, seed=start)
        for step in range(STEPS):
            seeded(STEPS * start + step)
            gradients = _gradients(trainable, lambda looked_at=looked_at: _loss(patient, looked_at, target))  # type: ignore[misc]
            now = {name for name, gradient in gradients.items() if gradient is not None}
            reached, late = reached | now, late | now if step == STEPS - 1 else late
            learning |= {name for name, gradient in gradients.items() if gradient is not None and bool(gradient.any())}
            if reached <= learning:
                return set()
            with torch.no_grad():
                for name, gradient in gradients.items():
                    if gradient is not None:
                        trainable[name].add_(gradient, alpha=-RATE)
    weights.back()
    return late - learning


def _loss(patient: Patient, inputs: Tensor, target: Tensor) -> Tensor:
    if patient.loss is None:
        raise CannotTell("no loss")
    loss = patient.loss(patient.model(inputs), target)
    if not loss.requires_grad:
        raise CannotTell("the loss has no gradient")
    # Half precision loses small gradients to zero; a scaler would do the same.
    return loss * 2.0**10 if any(weight.dtype == torch.float16 for weight in patient.model.parameters()) else loss


def _gradients(weights: dict[str, nn.Parameter], loss: Callable[[], Tensor]) -> dict[str, Tensor | None]:
    """By backward, not grad: what checkpoints recompute, reentrant ones as well, answers to that alone."""
    for weight in weights.values():
        weight.grad = None
    torch.autograd.backward(loss())
    return {name: weight.grad for name, weight in weights.items()}


def _lasting(patient: Patient, silent: set[str]) -> tuple[set[str], set[str]]:
    """Those whose gradient is zero at all DRAWS other weights; and at the two nearest, whose signs are those of the start."""
    network, (inputs, _) = eager(patient.model), patient.batch
    trainable = {name: weight for name, weight in network.named_parameters() if name in silent}
    weights = Weights(network)
    lasting, near = set(silent), set(silent)
    for draw in range(DRAWS):
        weights.draw(draw, flip=draw >= NEAR)
        looked_at = inputs if draw % 2 == 0 else strangers(inputs, seed=draw)
        gradients = _gradients(trainable, lambda looked_at=looked_at: _spoken(patient, looked_at))  # type: ignore[misc]
        lasting -= {name for name, gradient in gradients.items() if gradient is None or bool(gradient.any())}
        near = set(lasting) if draw < NEAR else near
        if not lasting:
            break
    weights.back()
    return lasting, near if draw >= NEAR - 1 else set()


def _spoken(patient: Patient, inputs: Tensor) -> Tensor:
    """A random sum over everything that the network says in evaluation."""
    seeded(0)
    settle(patient.model, inputs)
    with mode(patient.model, training=False):
        said = answers(patient.model(inputs), len(inputs))
    if not said.requires_grad:
        raise CannotTell("the outputs have no gradient in evaluation")
    return (said * torch.rand(said.shape, generator=torch.Generator().manual_seed(0)).to(said).add(0.5)).sum()


def _whole_modules(network: nn.Module, silent: set[str]) -> dict[str, list[str]]:
    """The largest modules of which every trainable parameter is silent, by path, or the one child that has them all."""
    trainable = [name for name, weight in network.named_parameters() if weight.requires_grad]
    whole: dict[str, list[str]] = {}
    for path, _ in network.named_modules():
        inside = [name for name in trainable if is_in(name, path)]
        if inside and silent.issuperset(inside) and not any(is_in(path, above) for above in whole):
            whole[_narrowed(network, path, inside)] = inside
    return whole


def _narrowed(network: nn.Module, path: str, inside: list[str]) -> str:
    for child, _ in network.get_submodule(path).named_children():
        below = f"{path}.{child}".lstrip(".")
        if all(is_in(name, below) for name in inside):
            return _narrowed(network, below, inside)
    return path


def _called(patient: Patient) -> set[str]:
    """Paths of the modules that a forward pass calls."""
    network, called = eager(patient.model), set[str]()
    with ExitStack() as stack, torch.no_grad():
        for path, module in network.named_modules():
            stack.callback(module.register_forward_pre_hook(lambda *_, path=path: called.add(path)).remove)
        patient.model(patient.batch[0])
    return called


def _call_of(patient: Patient, part: _Part) -> Place | None:
    """The line that calls it."""
    places: list[Place | None] = []
    if part.path:
        with ExitStack() as stack, torch.no_grad():
            stack.callback(part.module.register_forward_pre_hook(lambda *_: places.append(module_caller(part.module))).remove)
            patient.model(patient.batch[0])
    return places[0] if places else None


def _cut(patient: Patient, part: _Part) -> Cut | None:
    """Where its gradient ends, at weights beside the start."""
    weights = Weights(part.network)
    weights.draw(0)
    settle(patient.model, patient.batch[0])
    seeded(0)
    with mode(patient.model, training=False):
        cut = cut_behind(part.network, part.path, patient.batch[0])
    weights.back()
    return cut


EXAMINATIONS: tuple[Examination, ...] = (zero_gradient,)
