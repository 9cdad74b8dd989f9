"""M06 zero gradient: modules that are computed, reach the loss, and never learn, because their gradient is exactly zero."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatch

import torch
from torch import Tensor, nn

from catdog.doctor.examination import CannotTell, Examination, examination
from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.operations import Operation, Operations
from catdog.doctor.patient import Patient, tensors_in
from catdog.doctor.redraw import Weights, answers, mode, seeded, settle, strangers, unwrapped
from catdog.doctor.source import Place, module_caller

STEPS, STARTS = 3, 2
"""Of plain gradient descent, and batches that they begin anew with. A head and a residual gain of zero are over after two steps."""
RATE = 1e-3
DRAWS = 8
"""Other weights that a gradient must be zero at as well."""
MANY = 20
"""Channels that a dead activation must have before its signs are no accident: 2 ** -20."""


@examination(
    "M06", "zero gradient", catches="a branch times zero, a dead activation, a saturated gate", needs=("loss",),
    passes=STEPS * STARTS + DRAWS,
)
def zero_gradient(patient: Patient) -> Iterator[Finding]:
    """A whole module whose gradient is zero at every step, at every other weights, and of the outputs as of the loss, is an error.

    The second witness asks the outputs, not the loss, in evaluation, at drawn weights: what a start or the data alone make zero is
    revived there, and warns.
    """
    network = unwrapped(patient.model)
    silent = _silent(patient)
    silent -= {name for name in silent if any(fnmatch(name, pattern) for pattern in patient.intent.unused_ok)}
    if not silent:
        return
    weights = dict(network.named_parameters())
    modules, single = _whole_modules(network, silent)
    lasting, near = _lasting(patient, silent)
    called = _called(patient)
    for path, names in modules.items():
        part = _Part(network, path, names, sum(weights[name].numel() for name in names))
        is_called = any(not path or one == path or one.startswith(f"{path}.") for one in called)
        is_structure = is_called and set(names) <= lasting
        zero = _first_zero(patient, part) if set(names) <= near else None
        is_dead = set(names) <= near and zero is not None and zero.channels >= MANY and is_called
        yield _finding(patient, part, "error" if is_structure or is_dead else "warning", zero, is_structure=is_structure)
    if single:
        yield Finding(
            "M06", "warning", f"{len(single)} parameters get a gradient of exactly zero", Culprit(single[0]),
            (f"over {STEPS} steps from {STARTS} starts: {', '.join(single[:5])}",), "See what they are multiplied with.",
        )


@dataclass(frozen=True, slots=True)
class _Part:
    network: nn.Module
    path: str
    names: list[str]
    numbers: int

    @property
    def module(self) -> nn.Module:
        return self.network.get_submodule(self.path)


@dataclass(frozen=True, slots=True)
class _Zero:
    """A result that is zero everywhere, of something that is not."""

    operation: str
    place: Place | None
    channels: int


def _finding(patient: Patient, part: _Part, severity: str, zero: _Zero | None, *, is_structure: bool) -> Finding:
    total = sum(weight.numel() for weight in part.network.parameters() if weight.requires_grad)
    place = zero.place if zero is not None else _call_of(patient, part.module)
    evidence = [f"all {len(part.names)} tensors, over {STEPS} steps from {STARTS} starts: exactly 0"]
    if is_structure:
        evidence.append(f"the gradient of the outputs is 0 as well, in evaluation, at {DRAWS} other weights and inputs")
    elif severity == "warning":
        evidence.append("at other weights the outputs have one: it is the start, the data or the loss that make it zero")
    if zero is not None:
        evidence.append(f"the first result that is zero everywhere: {zero.operation}{f' at {zero.place}' if zero.place else ''}")
    return Finding(
        "M06", "error" if severity == "error" else "warning",
        f"{part.path or type(part.network).__name__} ({type(part.module).__name__}) is computed and never learns: its gradient is zero",
        Culprit(part.path or type(part.network).__name__, str(place) if place else None, parameters=part.numbers / max(1, total)),
        tuple(evidence),
        f"Look at {place}: {place.text}" if place is not None and place.text else "Look at what its output is multiplied with.",
    )


def _silent(patient: Patient) -> set[str]:
    """Names of parameters that got gradients, all of them zero, at every step from every start."""
    network, (inputs, target) = unwrapped(patient.model), patient.batch
    trainable = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    weights = Weights(network)
    reached: set[str] = set()
    learning: set[str] = set()
    for start in range(STARTS):
        weights.back()
        looked_at = inputs if start == 0 else strangers(inputs, seed=start)
        for step in range(STEPS):
            seeded(STEPS * start + step)
            gradients = _gradients(trainable, lambda looked_at=looked_at: _loss(patient, looked_at, target))  # type: ignore[misc]
            reached |= {name for name, gradient in gradients.items() if gradient is not None}
            learning |= {name for name, gradient in gradients.items() if gradient is not None and bool(gradient.any())}
            if reached <= learning:
                return set()
            with torch.no_grad():
                for name, gradient in gradients.items():
                    if gradient is not None:
                        trainable[name].add_(gradient, alpha=-RATE)
    return reached - learning


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
    network, (inputs, _) = unwrapped(patient.model), patient.batch
    trainable = {name: weight for name, weight in network.named_parameters() if name in silent}
    weights = Weights(network)
    lasting, near = set(silent), set(silent)
    for draw in range(DRAWS):
        weights.draw(draw, flip=draw > 1)
        looked_at = inputs if draw % 2 == 0 else strangers(inputs, seed=draw)
        gradients = _gradients(trainable, lambda looked_at=looked_at: _spoken(patient, looked_at))  # type: ignore[misc]
        lasting -= {name for name, gradient in gradients.items() if gradient is None or bool(gradient.any())}
        near = set(lasting) if draw <= 1 else near
        if not lasting:
            break
    return lasting, near


def _spoken(patient: Patient, inputs: Tensor) -> Tensor:
    """A random sum over everything that the network says in evaluation."""
    seeded(0)
    settle(patient.model, inputs)
    with mode(patient.model, training=False):
        said = answers(patient.model(inputs), len(inputs))
    if not said.requires_grad:
        raise CannotTell("the outputs have no gradient in evaluation")
    return (said * torch.rand(said.shape, generator=torch.Generator().manual_seed(0)).to(said).add(0.5)).sum()


def _whole_modules(network: nn.Module, silent: set[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The largest modules of which every trainable parameter is silent, by path; and what is left, without shifts that nobody misses."""
    trainable = [name for name, weight in network.named_parameters() if weight.requires_grad]
    whole: dict[str, list[str]] = {}
    for path, _ in network.named_modules():
        inside = [name for name in trainable if not path or name.startswith(f"{path}.")]
        is_inside = any(not above or path.startswith(f"{above}.") for above in whole)
        if inside and not is_inside and silent.issuperset(inside):
            whole[path] = inside
    taken = {name for names in whole.values() for name in names}
    # A shift before a normalisation, or of the keys of attention, has none by design.
    shapes = {name: weight.ndim for name, weight in network.named_parameters()}
    return whole, sorted(name for name in silent - taken if shapes[name] > 1)


def _called(patient: Patient) -> set[str]:
    """Paths of the modules that a forward pass calls."""
    network, called = unwrapped(patient.model), set[str]()
    with ExitStack() as stack, torch.no_grad():
        for path, module in network.named_modules():
            stack.callback(module.register_forward_pre_hook(lambda *_, path=path: called.add(path)).remove)
        patient.model(patient.batch[0])
    return called


def _call_of(patient: Patient, module: nn.Module) -> Place | None:
    places: list[Place | None] = []
    with ExitStack() as stack, torch.no_grad():
        stack.callback(module.register_forward_pre_hook(lambda *_: places.append(module_caller(module))).remove)
        patient.model(patient.batch[0])
    return places[0] if places else None


def _first_zero(patient: Patient, part: _Part) -> _Zero | None:
    """The first result, from where the part begins, that is zero everywhere although an argument of that size is not."""
    weights, (inputs, _) = Weights(unwrapped(patient.model)), patient.batch
    weights.draw(0)
    settle(patient.model, inputs)

    def is_new_zero(result: Tensor, arguments: tuple[object, ...]) -> int:
        given = [one for one in tensors_in(list(arguments)) if one.is_floating_point() and one.ndim and len(one) == len(inputs)]
        if result.ndim < 2 or not result.numel() or bool(result.any()) or not any(bool(one.any()) for one in given):
            return 0
        return result.shape[1] if result.ndim == 4 else result.shape[-1]

    begun: list[int] = []
    operations = Operations(is_new_zero)
    with ExitStack() as stack, torch.no_grad(), mode(patient.model, training=False), operations:
        stack.callback(part.module.register_forward_pre_hook(lambda *_: begun.append(len(operations.all))).remove)
        patient.model(inputs)
    found: list[Operation] = [one for one in operations.all[begun[0] if begun else 0 :] if one.kept]
    weights.back()
    return _Zero(found[0].name, found[0].place, found[0].kept) if found else None


EXAMINATIONS: tuple[Examination, ...] = (zero_gradient,)
