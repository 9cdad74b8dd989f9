"""examine: a network, and the loop that trains it, in one call; for anyone's project."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from catdog.doctor.catalogue import EXAMINATIONS
from catdog.doctor.findings import Report
from catdog.doctor.patient import Batch, Data, Intent, Loss, Patient, Serving, Training
from catdog.doctor.visit import visit

BUDGET = 30.0
"""Seconds."""


def examine(  # noqa: PLR0913 - one organ each, all but two optional
    model: nn.Module,
    batch: Batch,
    loss: Loss | None = None,
    optimizer: Optimizer | None = None,
    *,
    step: Callable[[nn.Module, Batch, Loss, Optimizer], object] | None = None,
    evaluate: Callable[[nn.Module, Iterable[Batch], Loss], Mapping[str, float]] | None = None,
    scheduler: LRScheduler | None = None,
    schedule: Callable[[], Sequence[float]] | None = None,
    scaler: GradScaler | None = None,
    intent: Intent | None = None,
    data: Data | None = None,
    training: Training | None = None,
    serving: Serving | None = None,
    budget: float = BUDGET,
) -> Report:
    """Examine a network and the loop that trains it.

    Args:
        model: the network, in training mode, on the device of the batch.
        batch: (inputs, target), real data with more than one label in it; eight images are enough.
        loss: loss(what the network returns, target), as the loop calls it.
        optimizer: the one that trains the network.
        step: one training step of your own loop, step(model, batch, loss, optimizer); by default the usual one.
        evaluate: your own evaluation, evaluate(model, batches, loss) -> {"loss": ..., "accuracy": ...}.
        scheduler: of the learning rate, if there is one.
        schedule: the learning rate of every update of the whole training, by calls of your own loop or schedule.
        scaler: of float16's gradients, if there is one.
        intent: what is meant, where it is not the usual: what is frozen, unused, tied.
        data, training, serving: more organs, see patient.py.
        budget: seconds; what it does not reach stands in the report as not made.
    """
    patient = Patient(
        model, batch, loss, optimizer, step=step, evaluate=evaluate, scheduler=scheduler, schedule=schedule, scaler=scaler,
        intent=intent or Intent(), data=data, training=training, serving=serving,
    )
    return visit(patient, EXAMINATIONS, budget=budget)
