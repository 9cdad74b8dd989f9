"""L01: which parameters the optimizers hold, and which they should."""

from collections.abc import Iterator

from torch import Tensor, nn

from catdog.doctor.examination import examination
from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.loop.parameters import chosen, grouped, share
from catdog.doctor.loop.rehearsal import Rehearsal
from catdog.doctor.patient import Patient


@examination(
    "L01", "optimizer coverage", catches="a parameter that is meant to be trained and is in no optimizer, or an optimizer of other tensors",
    needs=("optimizer", "loss"), passes=3, of_large=True,
)
def optimizer_coverage(patient: Patient) -> Iterator[Finding]:
    """Compare what is meant to be trained with what the optimizers of the loop hold, tensor by tensor."""
    rehearsal = Rehearsal.of(patient)
    held = {id(one): one for optimizer in (patient.optimizer, *rehearsal.optimizers) for one in _held(optimizer)}
    named = dict(patient.model.named_parameters())
    wanted = chosen(patient.model, patient.intent.trainable)
    own = {id(parameter) for parameter in named.values()}
    if not held:
        yield Finding(
            "L01", "error", "The optimizer holds no parameter", Culprit(type(patient.optimizer).__name__, _made(patient)),
            (f"{len(wanted)} parameters are meant to be trained",), "Build it from model.parameters().",
        )
        return
    yield from _frozen(patient, wanted)
    missing = {
        name: parameter for name, parameter in wanted.items()
        if id(parameter) not in held and parameter.requires_grad and not patient.intent.waives(name)
    }
    stale = [one for key, one in held.items() if key not in own and _is_idle(one, rehearsal)]
    strangers = [one for one in stale if any(one.shape == parameter.shape for parameter in missing.values())]
    if strangers:
        yield _replaced(patient, missing, strangers)
    elif stale and not any(key in own for key in held):
        yield Finding(
            "L01", "error", "The optimizer holds only tensors that are not this network's",
            Culprit(type(patient.optimizer).__name__, _made(patient)),
            (f"{len(stale)} tensors in it, of which none got a gradient", f"{len(wanted)} parameters of the network are in no optimizer"),
            "Build the optimizer from the parameters of the network that is trained, after it is complete.",
        )
    elif missing:
        yield _missing(patient, missing)


def _made(patient: Patient) -> str | None:
    """The line that makes the optimizer."""
    place = Rehearsal.of(patient).making(patient.optimizer) if patient.optimizer is not None else None
    return str(place) if place else None


def _held(optimizer: object) -> list[Tensor]:
    return [one for group in getattr(optimizer, "param_groups", []) for one in group["params"]]


def _is_idle(parameter: Tensor, rehearsal: Rehearsal) -> bool:
    """Whether it got no gradient in any update."""
    return not any(update.norms.get(id(parameter)) for update in rehearsal.updates)


def _frozen(patient: Patient, wanted: dict[str, nn.Parameter]) -> Iterator[Finding]:
    frozen = [name for name, parameter in wanted.items() if not parameter.requires_grad]
    if patient.intent.trainable is None or not frozen:
        return
    total = sum(parameter.numel() for parameter in wanted.values())
    of = sum(wanted[name].numel() for name in frozen) / total
    yield Finding(
        "L01", "error", f"{len(frozen)} parameters are declared trainable and are frozen",
        Culprit(grouped(frozen, patient.model), None, of),
        (
            f"requires_grad is False for {of:.1%} of what is declared trainable ({', '.join(patient.intent.trainable)})",
            f"trained are only: {grouped([name for name in wanted if name not in frozen], patient.model) or 'none'}",
        ),
        "Let them require a gradient (requires_grad_(True)), or declare what is really meant to be trained.",
    )


def _replaced(patient: Patient, missing: dict[str, nn.Parameter], strangers: list[Tensor]) -> Finding:
    shapes = [one.shape for one in strangers]
    names = [name for name, parameter in missing.items() if parameter.shape in shapes]
    return Finding(
        "L01", "error", f"The optimizer holds a former {grouped(names, patient.model)} that the network no longer has",
        Culprit(grouped(list(missing), patient.model), _made(patient), share(missing, patient.model)),
        (
            f"{len(strangers)} tensors in the optimizer are not the network's and got no gradient",
            f"same shape as {', '.join(f'{name} {tuple(missing[name].shape)}' for name in names[:4])}, which is in no optimizer",
        ),
        "Build the optimizer after the last change of the network: the module was replaced behind its back.",
    )


def _missing(patient: Patient, missing: dict[str, nn.Parameter]) -> Finding:
    """Trainable and left out: an error if it was declared; else somebody may train a head alone without freezing the rest."""
    is_declared = patient.intent.trainable is not None
    return Finding(
        "L01", "error" if is_declared else "warning",
        f"{len(missing)} parameters that {'are declared trainable' if is_declared else 'require a gradient'} are in no optimizer",
        Culprit(grouped(list(missing), patient.model), _made(patient), share(missing, patient.model)),
        (f"{sum(one.numel() for one in missing.values()):,} numbers will stay as they are",),
        "Give the optimizer all of them: model.parameters(). If they are meant to stay, freeze them: it also saves their gradients.",
    )


EXAMINATIONS = (optimizer_coverage,)
