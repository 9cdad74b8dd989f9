"""L08: the learning rate, now and over the whole training."""

from collections.abc import Iterator, Sequence

from catdog.doctor.examination import examination
from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.loop.rate import rate_that_learns
from catdog.doctor.patient import Patient
from catdog.doctor.tape import recording

NOTHING = 1e-6
"""Of the highest learning rate: what an update of less than that moves is rounding by the end of a training."""
RESTARTING = ("CosineAnnealingWarmRestarts", "CyclicLR", "OneCycleLR", "ReduceLROnPlateau")
"""torch's kinds that rise by design, or that only the run itself can tell."""


@examination(
    "L08", "learning rate and schedule", catches="a learning rate far too high, a schedule that ends early, turns round or has no effect",
    needs=("loss", "optimizer"), passes=14,
)
def learning_rate(patient: Patient) -> Iterator[Finding]:
    """Read the learning rates of the whole training, and try the present one on one batch."""
    if patient.schedule is not None:
        with recording(patient) as tape:
            rates = [float(rate) for rate in patient.schedule()]
        places = [event.place for event in tape.of("schedule") if event.place is not None]
        yield from _over_the_training(patient, rates, str(places[0]) if places else None)
    yield from rate_that_learns(patient)


def _over_the_training(patient: Patient, rates: Sequence[float], where: str | None) -> Iterator[Finding]:
    if len(rates) < 5:
        return
    highest = max(rates)
    name = type(patient.scheduler).__name__ if patient.scheduler is not None else "schedule"
    culprit = Culprit(f"{name}({_horizon(patient)})" if _horizon(patient) else name, where)
    evidence = (f"learning rate over {len(rates)} updates: {_traced(rates)}",)
    idle = sum(rate <= NOTHING * highest for rate in rates) / len(rates)
    turn = _turns(rates)
    if highest <= 0:
        yield Finding("L08", "error", "The learning rate is 0 in the whole training", culprit, evidence, "Give it one to start from.")
    elif min(rates) < 0:
        yield Finding("L08", "error", "The learning rate becomes negative", culprit, evidence, "Let the schedule end with the training.")
    elif turn is not None and turn < 0.6 * len(rates) and not patient.intent.restarts and name not in RESTARTING:
        yield Finding(
            "L08", "error",
            f"The learning rate ends at update {turn} of {len(rates)} and rises again: the schedule counts other steps than the loop",
            culprit, evidence, _remedy(patient, turn),
        )
    elif idle > 0.4:
        yield Finding(
            "L08", "error", f"The learning rate is practically 0 in {idle:.0%} of the training", culprit, evidence,
            _remedy(patient, next(number for number, rate in enumerate(rates) if rate <= NOTHING * highest)),
        )
    elif idle > 0.05:
        yield Finding(
            "L08", "warning", f"The learning rate is practically 0 in {idle:.0%} of the training", culprit, evidence,
            "Let the schedule end with the training.",
        )
    elif patient.scheduler is not None and highest - min(rates) <= 1e-3 * highest and name not in (*RESTARTING, "ConstantLR"):
        yield Finding(
            "L08", "warning", "There is a schedule, and the learning rate stays what it is", culprit, evidence,
            "Call scheduler.step(), and let its horizon be the length of the training in the steps that it is called in.",
        )


def _turns(rates: Sequence[float]) -> int | None:
    """The first update at which the rate, having come down from its height to a tenth, goes up again for good."""
    highest, lowest, at = 0.0, float("inf"), 0
    for number, rate in enumerate(rates):
        if rate > highest:
            highest, lowest, at = rate, rate, number
        elif rate < lowest:
            lowest, at = rate, number
        if lowest < 0.1 * highest and rate > lowest + 0.5 * highest:
            return at
    return None


def _horizon(patient: Patient) -> str:
    names = ("T_max", "total_steps", "total_iters", "step_size", "milestones", "T_0")
    own = vars(patient.scheduler) if patient.scheduler is not None else {}
    return ", ".join(f"{name}={list(own[name]) if name == 'milestones' else own[name]}" for name in names if name in own)


def _remedy(patient: Patient, turn: int) -> str:
    horizon = _horizon(patient)
    return (
        f"{horizon or 'The schedule'} seems to count epochs, and the loop steps it per batch: step it once an epoch, or count in batches."
        if turn else "Let the schedule be as long as the training."
    )


def _traced(rates: Sequence[float]) -> str:
    """Eight of them, evenly."""
    return ", ".join(f"{rates[round(part * (len(rates) - 1) / 7)]:.3g}" for part in range(8))


EXAMINATIONS = (learning_rate,)
