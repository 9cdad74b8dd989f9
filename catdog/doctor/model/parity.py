"""M14 parity: the network computes the same on the other device, compiled, and in the precision of the training, as it does here."""

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from catdog.doctor.examination import CannotTell, Examination, examination
from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.model.redraw import answers, seeded, settle
from catdog.doctor.model.trace import eager
from catdog.doctor.patient import ANY_ERROR, Patient, tensors_in

FAR = 1e-3
"""Largest difference of an answer, as a share of the largest answer, that two ways to compute in float32 may have."""
ALIKE = 0.999
"""Least cosine of the gradients of a parameter."""
STEEP = 1e-6
"""Share of the largest gradient below which one is rounding."""
MIXED = 0.99
"""Least cosine of what a module says in mixed precision."""
FEW = 0.05
"""Share of the modules that may say something else."""
LAYER = 10.0
"""Times the median error of the layers before it: there it begins."""


@examination("M14", "parity", catches="a device or a compiler that computes something else", passes=8)
def parity(patient: Patient) -> Iterator[Finding]:
    """An error where answers differ by more than FAR in float32, and float64 says that the other way, not the network, is off.

    A warning where modules point elsewhere in the precision that the training multiplies in.
    """
    network = eager(patient.model)
    if any(weight.dtype not in (torch.float32, torch.float64) for weight in network.parameters()):
        raise CannotTell("not in float32")
    try:
        ways = list(_ways(patient, network))
        if not ways:
            raise CannotTell("one device, and nothing compiled")
        original = copy.deepcopy(network).to("cpu")
    except (RuntimeError, TypeError, AttributeError) as error:
        raise CannotTell(f"the network cannot be copied: {error}") from error
    with _full_precision(), torch.compiler.set_stance("default"):  # everything else is asked of the network as it was written
        here = _heard(original, patient.batch[0].to("cpu"))
        for way in ways:
            there = _heard(way.network, patient.batch[0].to(way.device), way.precision)
            if way.precision is torch.float32:
                yield from _compared(here, there, way, network, patient.batch[0])
            else:
                yield from _mixed(here, there, way)


@dataclass(frozen=True, slots=True)
class _Way:
    """Another way to compute the same."""

    name: str
    network: nn.Module
    device: torch.device
    precision: torch.dtype = torch.float32


@dataclass(frozen=True, slots=True)
class _Heard:
    """What one pass says, on the CPU in float64."""

    said: Tensor
    gradients: dict[str, Tensor]
    layers: dict[str, Tensor]
    """Outputs of the modules by path, in the order in which they were called."""


def _ways(patient: Patient, network: nn.Module) -> Iterator[_Way]:
    """Those there are besides the CPU's. Where there are any, the network gets the statistics of the batch first, and so do its copies."""
    device, precision = patient.intent.device or patient.batch[0].device, patient.intent.precision
    is_compiled = hasattr(patient.model, "_orig_mod")
    if device.type == "cpu" and precision is torch.float32 and not is_compiled:
        return
    settle(network, patient.batch[0])  # as it first comes, batch normalisation lets values explode in evaluation
    if device.type != "cpu":
        yield _Way(str(device), copy.deepcopy(network).to(device), device)
    if is_compiled:
        yield _Way("torch.compile", patient.model, patient.batch[0].device)
    if precision is not torch.float32:
        yield _Way(f"{device} in {precision}", copy.deepcopy(network).to(device), device, precision)


@contextmanager
def _full_precision() -> Iterator[None]:
    """Products of float32 in float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _heard(network: nn.Module, inputs: Tensor, precision: torch.dtype = torch.float32) -> _Heard:
    """One pass in evaluation, where no random number is drawn, with the gradient of a sum over the answers."""
    network.eval()
    layers: dict[str, Tensor] = {}

    def note(path: str, outputs: object) -> None:
        tensors = [one for one in tensors_in(outputs) if one.is_floating_point()]
        if tensors:
            layers.setdefault(path, tensors[0].detach().cpu().double())

    inner = eager(network)
    with ExitStack() as stack:
        if inner is network:  # a compiled network keeps its own counsel
            for path, module in inner.named_modules():
                hook = module.register_forward_hook(lambda *call, path=path: note(path, call[-1]))
                stack.callback(hook.remove)
        seeded(0)
        with torch.autocast(inputs.device.type, dtype=precision, enabled=precision is not torch.float32):
            said = answers(network(inputs), len(inputs))
    weights = torch.rand(said.shape, generator=torch.Generator().manual_seed(0)).to(said).add(0.5)
    for weight in inner.parameters():
        weight.grad = None
    if said.requires_grad:
        torch.autograd.backward((said * weights).sum())
    gradients = {name: weight.grad.detach().cpu().double() for name, weight in inner.named_parameters() if weight.grad is not None}
    return _Heard(said.detach().cpu().double(), gradients, layers)


def _compared(here: _Heard, there: _Heard, way: _Way, network: nn.Module, inputs: Tensor) -> Iterator[Finding]:
    error = _error(here.said, there.said)
    steepest = max((float(one.norm()) for one in here.gradients.values()), default=0.0)
    unlike = {
        name: cosine for name, one in here.gradients.items()
        if name in there.gradients and float(one.norm()) > STEEP * steepest
        and (cosine := _alike(one, there.gradients[name])) < ALIKE
    }
    if error <= FAR and not unlike:
        return
    exact = _exact(network, inputs)
    own, others = (_error(exact, one.said) if exact is not None else None for one in (here, there))
    if own is not None and own > FAR / 10:  # random, or in half precision by its own will: no two ways agree
        return
    is_certain = error > FAR and own is not None and others is not None and others > FAR
    first = _first_layer(here, there) or (next(iter(unlike)) if unlike else type(network).__name__)
    evidence = [f"the answers differ by {error:.1e} of the largest"]
    if own is not None and others is not None:
        evidence.append(f"from float64 the CPU differs by {own:.1e}, {way.name} by {others:.1e}")
    if unlike:
        least = min(unlike.values())
        evidence.append(f"{len(unlike)} of {len(here.gradients)} gradients have a cosine below {ALIKE}, least {least:.3f}")
    yield Finding(
        "M14", "error" if is_certain else "warning", f"On {way.name} the network computes something else than on the CPU as it is",
        Culprit(first), tuple(evidence),
        "Train on the CPU until it is known; look at the layer named, at its dtype, and at the versions of the driver and of torch.",
    )


def _mixed(here: _Heard, there: _Heard, way: _Way) -> Iterator[Finding]:
    alike = {
        path: _alike(outputs, there.layers[path]) for path, outputs in here.layers.items()
        if path in there.layers and there.layers[path].shape == outputs.shape and bool(outputs.isfinite().all())
    }
    unlike = [path for path, cosine in alike.items() if not cosine >= MIXED]
    if len(unlike) <= FEW * len(alike) and bool(there.said.isfinite().all()) >= bool(here.said.isfinite().all()):
        return
    first = unlike[0] if unlike else ""
    yield Finding(
        "M14", "warning", f"On {way.name} the network says something else than in float32", Culprit(first or "the answers"),
        (f"{len(unlike)} of {len(alike)} modules have a cosine below {MIXED}" + (f", {first} {alike[first]:.3f}" if unlike else ""),
         f"{int(there.said.isfinite().logical_not().sum())} of {there.said.numel()} answers are no number"),
        "Train with precision=float32, or keep that module in float32: with torch.autocast(..., enabled=False).",
    )


def _alike(one: Tensor, other: Tensor) -> float:
    """The cosine between them, however small they are; where the one is zeros, anything is like it."""
    if not bool(one.any()):
        return 1.0
    first, second = (values.flatten() / (values.abs().max() or 1.0) for values in (one, other))
    return float(torch.nn.functional.cosine_similarity(first, second, dim=0))


def _error(one: Tensor, other: Tensor) -> float:
    """Largest difference as a share of the largest value; what is not a number in one alone is infinitely far."""
    if not torch.equal(one.isfinite(), other.isfinite()):
        return float("inf")
    both = one.isfinite()
    scale = float(one[both].abs().max()) if bool(both.any()) else 0.0
    return float((one[both] - other[both]).abs().max()) / (scale or 1.0) if bool(both.any()) else 0.0


def _exact(network: nn.Module, inputs: Tensor) -> Tensor | None:
    """The answers in float64 on the CPU; None where the network cannot."""
    try:
        with torch.no_grad():
            seeded(0)
            exact = copy.deepcopy(network).cpu().double().eval()
            return answers(exact(inputs.cpu().double() if inputs.is_floating_point() else inputs.cpu()), len(inputs))
    except ANY_ERROR:  # a dtype that is written down somewhere
        return None


def _first_layer(here: _Heard, there: _Heard) -> str | None:
    """The first module whose error exceeds LAYER times the median of those before it, and FAR."""
    errors: list[float] = []
    for path, outputs in here.layers.items():
        if path in there.layers and there.layers[path].shape == outputs.shape:
            error = _error(outputs, there.layers[path])
            if error > FAR and error > LAYER * (sorted(errors)[len(errors) // 2] if errors else 0.0):
                return path or None
            errors.append(error)
    return None


EXAMINATIONS: tuple[Examination, ...] = (parity,)
