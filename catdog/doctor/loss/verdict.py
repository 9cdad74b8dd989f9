"""L05: the loss certificate. Which loss the loop really trains with, told from the gradient that comes back to known answers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from catdog.doctor.examination import CannotTell, Examination, examination
from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.loss.answers import Answer, answered, plant
from catdog.doctor.loss.certificate import EXACT, Certificate
from catdog.doctor.loss.doubling import doubled
from catdog.doctor.patient import ANY_ERROR, Patient
from catdog.doctor.snapshot import Snapshot

SPREAD = 2.0
"""Standard deviation of the planted logits: far enough from 0 that no two losses have the same gradient there."""
FAR = 3.0
"""By how much, in a planted answer that is wrong, the right label stands behind the least likely."""


@dataclass(frozen=True, slots=True)
class _Case:
    """Answers planted for one target, and what came back."""

    target: Tensor
    answers: Sequence[Answer]
    other_target: Tensor
    other: Answer
    """The first of the answers, with the other target."""

    @property
    def gradients(self) -> Tensor:
        return torch.cat([answer.gradients for answer in self.answers])

    @property
    def logits(self) -> Tensor:
        return torch.cat([answer.logits for answer in self.answers])

    @property
    def targets(self) -> Tensor:
        return torch.cat([self.target for _ in self.answers])

    @property
    def where(self) -> str | None:
        place = self.answers[0].place
        return str(place) if place else None


@examination(
    "L05", "loss certificate", catches="a loss that ignores the target, a label or the sign, or is computed from probabilities",
    needs=("loss",), passes=2, of_large=True,
)
def loss_certificate(patient: Patient) -> Iterator[Finding]:
    """Plant answers, let the owner's step compute its loss of them, and compare what comes back with the losses there are."""
    double = list(doubled(patient))
    yield from double
    case = _case(patient)
    if not bool(case.gradients.any()) and not bool(case.other.gradients.any()):
        yield _finding(case, "The loss does not depend on what the network answers", "gradient 0 at every planted answer", (
            "Compute the loss from the network's output, and go back from the loss itself."
        ))
        return
    if torch.equal(case.answers[0].gradients, case.other.gradients):
        yield _ignores_target(case)
        return
    shape = case.logits.shape
    if len(shape) > 2 or (case.target.ndim == 2 and case.target.shape != case.logits[: len(case.target)].shape):
        return
    certificate = _certificate(case)
    if certificate is None:
        yield from _unknown(patient, case)
    else:
        yield from _known(patient, case, certificate, is_named=bool(double))


def _certificate(case: _Case) -> Certificate | None:
    gradients, logits = (tensor.reshape(len(tensor), -1) for tensor in (case.gradients, case.logits))
    targets = case.targets.reshape(len(logits), 1) if logits.shape[1] == 1 else case.targets
    return Certificate.of(gradients, logits, targets, images=len(case.target))


def _case(patient: Patient) -> _Case:
    like = plant(patient)
    target = patient.batch[1]
    other = _another(target, like.logits)
    generator = torch.Generator().manual_seed(0)
    draws = [SPREAD * torch.randn(like.logits.shape, generator=generator).to(like.logits.device) for _ in range(2)]
    draws.append(_wrong(draws[0], target))
    start = Snapshot.of(patient)
    ask = partial(answered, patient, like=like, start=start)
    try:
        try:
            return _Case(target, [ask(draw, target) for draw in draws], other, ask(draws[0], other))
        except (RuntimeError, AttributeError, TypeError):  # a loop that wants the gradient of every parameter
            ask = partial(ask, whole=True)
            return _Case(target, [ask(draw, target) for draw in draws], other, ask(draws[0], other))
    except CannotTell:
        raise
    except ANY_ERROR as error:
        raise CannotTell(f"the training step cannot be made with planted answers: {type(error).__name__}: {error}"[:200]) from error


def _is_labels(target: Tensor, logits: Tensor) -> bool:
    return target.ndim == 1 and not target.is_floating_point() and logits.ndim == 2 and 1 < logits.shape[1] > int(target.max())


def _another(target: Tensor, logits: Tensor) -> Tensor:
    """A target that is another one for every image."""
    if _is_labels(target, logits):
        return (target + 1) % logits.shape[1]
    if target.dtype == torch.bool or not target.is_floating_point():
        return ~target if target.dtype == torch.bool else (target.max() + target.min() - target)
    return 1 - target if bool(((target >= 0) & (target <= 1)).all()) else target + 1


def _wrong(logits: Tensor, target: Tensor) -> Tensor:
    """Answers that no loss can be content with."""
    if not _is_labels(target, logits):
        return -logits
    return logits.scatter(1, target[:, None], logits.min(dim=1, keepdim=True).values - FAR)


def _finding(case: _Case, message: str, evidence: str, remedy: str, severity: str = "error") -> Finding:
    return Finding("L05", "warning" if severity == "warning" else "error", message, Culprit("loss", case.where), (evidence,), remedy)


def _ignores_target(case: _Case) -> Finding:
    heard = case.answers[0].hearing.losses
    against = next((one for one in heard if isinstance(one.target, Tensor) and one.target.requires_grad), None)
    itself = against is not None and against.target is against.outputs
    how = f": {against.kind} of the output against {'itself' if itself else 'something made of it'}" if against else ""
    place = (against.place if against else None) or case.answers[0].place
    same = case.answers[0].value == case.other.value
    return Finding(
        "L05", "error", f"The loss does not depend on the target{how}", Culprit("target of the loss", str(place) if place else None),
        (
            "with another label for every image the gradient is the same, bit by bit",
            f"loss {case.answers[0].value:.6g} with these targets, {case.other.value:.6g} with others{' (equal)' if same else ''}",
            *((f"{place}: {place.text}",) if place and place.text else ()),
        ),
        "Give the loss the target of the batch: criterion(output, target).",
    )


def _is_ascending(patient: Patient) -> bool:
    groups = patient.optimizer.param_groups if patient.optimizer is not None else []
    return bool(groups) and all(bool(group.get("maximize", False)) for group in groups)


def _known(patient: Patient, case: _Case, certificate: Certificate, *, is_named: bool) -> Iterator[Finding]:
    intent = patient.intent
    evidence = f"{certificate} with factor {certificate.scale:.4g} explains all but {certificate.unexplained:.1e} of the gradient"
    sign = -1 if _is_ascending(patient) else 1
    if certificate.activation and certificate.loss != "mse" and not is_named:
        is_sure = certificate.activation in ("softmax", "sigmoid")
        yield _finding(
            case, f"The loss is {certificate}: an activation stands before a loss that has its own", evidence,
            "Give the loss the logits as they come out of the last layer.", "error" if is_sure else "warning",
        )
    if sign * certificate.scale < 0 and _is_uphill(case, sign):
        yield _finding(
            case, "The loss has the wrong sign: the optimizer makes the right label less likely", evidence,
            "Remove the minus before the loss.",
        )
        return
    yield from _labels_left_out(patient, case, certificate)
    yield from _weights_left_out(patient, case, certificate)
    images, outputs = len(case.target), len(case.target) * case.logits.shape[-1]
    factor = abs(certificate.scale)
    sums = [number for number in (images, outputs) if abs(factor / number - 1) < 0.01 and number > 2]
    if sums and intent.reduction == "mean" and not intent.label_weights and intent.accumulate == 1:
        yield _finding(
            case, f"The loss is a sum over the batch: {factor:.4g} times the mean over its {images} images", evidence,
            "reduction='mean'; or declare the sum: with it the learning rate means something else for every batch size.",
            "error" if intent.loss is not None else "warning",
        )


def _is_uphill(case: _Case, sign: int) -> bool:
    """Whether every image's loss grows where its right label becomes more likely; of targets that are no labels nothing is known."""
    if not _is_labels(case.target, case.logits):
        return True
    return bool((sign * case.gradients.gather(1, case.targets[:, None]) > 0).all())


def _labels_left_out(patient: Patient, case: _Case, certificate: Certificate) -> Iterator[Finding]:
    most = max(abs(scale) for scale in certificate.scales.values())
    weights = patient.intent.label_weights or ()
    for label, scale in certificate.scales.items():
        is_meant = label == patient.intent.ignore_index or (0 <= label < len(weights) and weights[label] == 0)
        rows = case.gradients.reshape(len(case.gradients), -1)[case.targets == label] if case.targets.ndim == 1 else case.gradients
        if abs(scale) < 1e-4 * most and not is_meant and not bool(rows.any()):
            yield _finding(
                case, f"The loss ignores label {label}: its images give no gradient",
                f"gradient exactly 0 in {len(rows)} planted answers to images of label {label}, also where it is the least likely answer",
                "Look at ignore_index and at the weights by label of the loss.",
            )


def _weights_left_out(patient: Patient, case: _Case, certificate: Certificate) -> Iterator[Finding]:
    """Whether the labels weigh what is declared, in proportion."""
    weights = patient.intent.label_weights
    scales = {label: scale for label, scale in certificate.scales.items() if weights and 0 <= label < len(weights) and weights[label] > 0}
    if weights is None or len(scales) < 2 or certificate.smoothing > EXACT:
        return
    found = [scale / weights[label] for label, scale in scales.items()]
    if max(found) > 1.02 * min(found):
        yield _finding(
            case, "The loss does not weigh the labels as declared", "found "
            + ", ".join(f"{label}: {scale:.3g}" for label, scale in scales.items())
            + "; declared " + ", ".join(f"{label}: {weights[label]:.3g}" for label in scales),
            "Give the loss the weights in the order of the labels.",
        )


def _unknown(patient: Patient, case: _Case) -> Iterator[Finding]:
    """A loss of their own: the sign, what it is compared with, and whether a label is left out."""
    if not _is_labels(case.target, case.logits) or not all(answer.is_matched for answer in case.answers):
        return
    if (strange := _strangers(case)) is not None:
        yield strange
        return
    if _is_uphill(case, -1 if _is_ascending(patient) else 1):
        yield _finding(
            case, "The loss has the wrong sign: making the right label more likely makes it larger",
            f"the derivative by the right label's logit is positive in all of {len(case.targets)} planted answers",
            "Remove the minus before the loss.",
        )
        return
    for label in sorted(set(case.target.tolist())):
        rows, rest = case.gradients[case.targets == label], case.gradients[case.targets != label]
        if not bool(rows.any()) and len(rest) and bool(rest.any(dim=1).all()) and label != patient.intent.ignore_index:
            yield _finding(
                case, f"The loss ignores label {label}: its images give no gradient",
                f"gradient exactly 0 in {len(rows)} planted answers", "Look at ignore_index and at the weights by label of the loss.",
            )


def _strangers(case: _Case) -> Finding | None:
    """Whether it is a known loss of other targets: each image's is then the one label whose logit is to grow."""
    seen = case.gradients.argmin(dim=1)
    if bool((seen == case.targets).all()) or set(seen.tolist()) - set(case.targets.tolist()):
        return None
    certificate = Certificate.of(case.gradients, case.logits, seen, images=len(case.target))
    if certificate is None or certificate.scale <= 0 or certificate.loss == "mse":
        return None
    pairs = sorted(set(zip(case.targets.tolist(), seen.tolist(), strict=True)))
    is_map = len({label for label, _ in pairs}) == len(pairs)
    how = ", ".join(f"{label} as {other}" for label, other in pairs[:6]) if is_map else "those of other images"
    return _finding(
        case, f"The loss gets other targets than the batch has: {how}", f"{certificate} of the other targets explains the gradient",
        "Look at what the loop does to the target, and whether it does the same to the images.",
    )


EXAMINATIONS: tuple[Examination, ...] = (loss_certificate,)
