"""doubled: a loss that has its own activation, computed from numbers that have been through one already."""

from collections.abc import Iterator

from torch import Tensor

from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.loss.hearing import Heard, Hearing, activation_behind, chain, has_the_range
from catdog.doctor.patient import ANY_ERROR, Patient, logits_of
from catdog.doctor.snapshot import Snapshot
from catdog.doctor.source import Place
from catdog.doctor.tape import Event, recording

_MEANS = {"cross_entropy": "softmax", "bce_with_logits": "sigmoid"}
"""By loss: the activation that it has itself."""


def doubled(patient: Patient) -> Iterator[Finding]:
    """Listen to one step of the owner's on the real batch; the graph says what stands before the loss, the numbers confirm it."""
    hearing, answers = Hearing(), []

    def on_event(event: Event) -> None:
        if event.kind == "forward" and (logits := logits_of(event.of)) is not None:
            answers.append(logits)

    start = Snapshot.of(patient)
    try:
        with recording(patient, on_event=on_event), hearing:
            if patient.optimizer is not None:
                patient.train_step()
            elif patient.loss is not None:
                patient.loss(patient.model(patient.batch[0]), patient.batch[1])
    except ANY_ERROR:  # L02 tells of a step that cannot be made
        return
    finally:
        start.restore()
    said = set()
    for heard in hearing.losses:
        finding = _of(heard, hearing, answers)
        if finding is not None and finding.message not in said:
            said.add(finding.message)
            yield finding


def _of(heard: Heard, hearing: Hearing, answers: list[Tensor]) -> Finding | None:
    found = activation_behind(heard.outputs)
    if not _is_the_networks(heard, hearing, answers):
        return None
    if heard.kind == "nll":
        return _of_nll(heard, found[0] if found else None)
    if found is None or heard.kind not in _MEANS or found[0] == "log_softmax" or not has_the_range(found[0], heard.outputs):
        return None
    activation = hearing.activations.get(found[1])
    place = activation.place if activation else None
    return _finding(
        f"{found[0]} stands before {heard.kind}, which has its own {_MEANS[heard.kind]}", found[0], place, heard,
        "Give the loss the logits: leave the activation to the loss while training, and apply it where probabilities are wanted.",
    )


def _of_nll(heard: Heard, activation: str | None) -> Finding | None:
    """It wants logarithms of probabilities: their exponentials add up to 1."""
    rows = heard.outputs.detach().float()
    if rows.ndim < 2 or bool((rows.exp().sum(dim=1) - 1).abs().max() < 0.05):
        return None
    what = "probabilities" if activation in ("softmax", "sigmoid") else "numbers that are no logarithms of probabilities"
    return _finding(
        f"nll_loss gets {what}: it is then not the loss of any probability", activation or "nll_loss", heard.place, heard,
        "Use log_softmax before nll_loss, or cross_entropy on the logits.",
    )


def _is_the_networks(heard: Heard, hearing: Hearing, answers: list[Tensor]) -> bool:
    """Whether what the loss gets is the network's answer, or an activation of it."""
    nodes = list(chain(heard.outputs))
    last = hearing.activations.get(nodes[-1]) if nodes else None
    if last is not None and isinstance(last.inputs, Tensor):
        nodes += chain(last.inputs)
    return any(answer.grad_fn is not None and any(answer.grad_fn is node for node in nodes) for answer in answers)


def _finding(message: str, what: str, place: Place | None, heard: Heard, remedy: str) -> Finding:
    values = heard.outputs.detach().float()
    places = [f"{one}: {one.text}" for one in dict.fromkeys((place, heard.place)) if one is not None and one.text]
    return Finding(
        "L05", "error", message, Culprit(what, str(place or heard.place) if place or heard.place else None),
        (
            f"the loss gets numbers from {float(values.min()):.3g} to {float(values.max()):.3g}, rows that add up to "
            f"{float((values if values.ndim > 1 else values[None]).sum(-1).mean()):.3g}", *places,
        ),
        remedy,
    )
