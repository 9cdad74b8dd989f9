"""S02: whether the network that serves is the one that was validated."""

import copy
from collections.abc import Callable, Iterator
from itertools import permutations

import torch
from torch import Tensor, nn

from catdog.doctor.data.deviations import normalised
from catdog.doctor.data.geometry import channels_first
from catdog.doctor.examination import CannotTell, Examination, examination
from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.patient import ANY_ERROR, Patient
from catdog.doctor.serving.golden import golden
from catdog.doctor.serving.uploads import answer, real, serving_of
from catdog.doctor.source import defined_at

EXACT, ALIKE = 1e-4, 0.999
"""Of logits: the largest difference in single precision, as a share of the largest one; the cosine that half precision and 8 bits keep."""
FEW_LABELS = 6
"""Labels of which every order is tried."""


@examination(
    "S02", "model parity", needs=("serving",), passes=12,
    catches="a served network in training mode, with other weights or without its batch statistics",
)
def model_parity(patient: Patient) -> Iterator[Finding]:
    """Compare the served network's logits with those of the network; or of what a training left as its best."""
    serving = serving_of(patient)
    if serving.logits is None:
        raise CannotTell("the served network cannot be asked for logits")
    inputs = _inputs(patient)
    with torch.no_grad():
        served, again = (torch.as_tensor(serving.logits(inputs)).detach().cpu().double() for _ in range(2))
    expected = answer(patient.model.eval(), inputs)
    culprit = Culprit("serving.logits", str(place) if (place := defined_at(serving.logits)) else None)
    if not torch.allclose(served, again, rtol=1e-5, atol=1e-6):
        yield Finding(
            "S02", "error", "The served network answers the same pictures otherwise each time: it serves in training mode", culprit,
            (f"two answers to {len(inputs)} pictures differ by up to {float((served - again).abs().max()):.3g}",),
            "Call .eval() on the network behind loading it.",
        )
    elif not _agree(served, expected) and not _is_best(patient, inputs, served):
        said = _otherwise(patient, inputs, served)
        evidence = (
            f"logits of {len(inputs)} pictures differ by up to {float((served - expected).abs().max()):.3g}",
            f"{float((served.argmax(-1) == expected.argmax(-1)).double().mean()):.0%} have the same answer",
        ) if served.shape == expected.shape else (f"logits of shape {tuple(served.shape)} instead of {tuple(expected.shape)}",)
        yield Finding(
            "S02", "error", f"The served network does not answer as the network does{f': {said}' if said else ''}", culprit, evidence,
            "Load the file that was saved, whole and strictly, and call .eval().",
        )


def _agree(served: Tensor, expected: Tensor) -> bool:
    """To single precision; or as half precision and 8 bits do, with the same answers."""
    if served.shape != expected.shape:
        return False
    if float((served - expected).abs().max()) <= EXACT * max(1.0, float(expected.abs().max())):
        return True
    cosine = float(nn.functional.cosine_similarity(served.flatten(), expected.flatten(), dim=0))
    # An answer may tip over only where its two best logits were as near as the others moved.
    best = expected.topk(min(2, expected.shape[-1]), dim=-1).values
    tipped = (served.argmax(-1) != expected.argmax(-1)) & ((best[..., 0] - best[..., -1]) > 2 * (served - expected).abs().max())
    return cosine >= ALIKE and not bool(tipped.any())


def _is_best(patient: Patient, inputs: Tensor, served: Tensor) -> bool:
    """Whether it is what a training left as its best."""
    if patient.training is None:
        return False
    try:
        return _agree(served, answer(patient.training.best().eval(), inputs))
    except ANY_ERROR:  # there is none, or T05 says why it cannot be loaded
        return False


def _otherwise(patient: Patient, inputs: Tensor, served: Tensor) -> str | None:
    """What would make the network answer so."""
    for said, suspect in _suspects(patient, patient.model, inputs):
        try:
            made = suspect()
        except ANY_ERROR:  # it cannot be so
            continue
        if made.shape == served.shape and float((made - served).abs().max()) <= 10 * EXACT * max(1.0, float(served.abs().max())):
            return said
    return None


def _suspects(patient: Patient, network: nn.Module, inputs: Tensor) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    expected = answer(network.eval(), inputs)
    yield "it serves probabilities for logits", lambda: expected.softmax(-1)
    yield "it serves log-probabilities for logits", lambda: expected.log_softmax(-1)
    yield "it serves in training mode", lambda: answer(copy.deepcopy(network).train(), inputs)
    yield "its batch statistics are those of a new network: the buffers were not loaded", lambda: answer(_forgetful(network), inputs)
    normalise = patient.data.normalise if patient.data is not None else None
    if normalise is not None:
        yield "it normalises its inputs once more", lambda: answer(
            network.eval(), torch.stack([normalised(channels_first(one).double(), normalise).to(one.dtype) for one in inputs]),
        )
    if expected.shape[-1] <= FEW_LABELS:
        for order in permutations(range(expected.shape[-1])):
            yield f"its outputs are in the order {order}", lambda order=order: expected[..., list(order)]  # type: ignore[misc]


def _forgetful(network: nn.Module) -> nn.Module:
    copied = copy.deepcopy(network).eval()
    for module in copied.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.reset_running_stats()
    return copied


def _inputs(patient: Patient) -> Tensor:
    """Real and golden pictures as validation prepares them."""
    if patient.data is None or patient.data.prepare is None:
        return patient.batch[0]
    made = [torch.as_tensor(patient.data.prepare(one.data)) for one in (*real(patient), *golden()[:5])]
    same = [one for one in made if one.shape == made[0].shape]
    return torch.stack(same)


EXAMINATIONS: tuple[Examination, ...] = (model_parity,)
