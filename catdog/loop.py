"""train, train_step, evaluate: THE training loop, told in the order one would explain it.

    for progress in train(network, train_split, val_split, config, ...):
        print(progress.to_json())

N images, C labels. A batch is (inputs, target): inputs are pixels (N, S, S, 3) uint8 for a whole network, or
features (N, F) float32 for a head on a frozen backbone; the loop cannot tell. target is (N,) int64, logits (N, C) float.

The loop knows nothing of queues, services or progress bars. It says what happens by yielding Progress; whoever iterates
reports, and stops it by closing the generator: the state of the last finished step is then on disk.
"""

import math
import time
from collections.abc import Generator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from catdog import balance, checkpoints, losses, optimizers
from catdog.config import TrainConfig
from catdog.errors import NonFiniteLoss
from catdog.loaders import Split, shuffled
from catdog.losses import Loss
from catdog.metrics import Tally
from catdog.progress import Progress
from catdog.schedules import learning_rate

SAVE_EVERY_SECONDS = 60.0
"""Between two checkpoints inside an epoch: the most work a kill can cost. Every epoch ends with one anyway."""


@dataclass(slots=True)
class State:
    """Where the loop is. Together with weights, optimiser and random generators it is all that a resume needs."""

    epoch: int = 0
    """Finished epochs."""
    batch: int = 0
    """Finished batches of the epoch under way."""
    step: int = 0
    """Optimizer steps so far."""
    tally: Tally = field(default_factory=Tally)
    """Training loss and accuracy of the epoch under way; three numbers for each label, however many images."""
    best_epoch: int = 0
    best_step: int = 0
    best_val_loss: float | None = None

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Read what `asdict` wrote into a checkpoint."""
        return cls(**fields | {"tally": Tally(**fields["tally"])})


def train(
    network: nn.Module, train_split: Split, val_split: Split, config: TrainConfig,
    *, labels: int, device: str, folder: Path, fence: int = 0,
) -> Generator[Progress]:
    """Train `network` in place; yield Progress after every step, every epoch and every checkpoint.

    Goes on from the newest valid checkpoint under `folder`, if there is one. Everything needed to resume is on disk
    before a Progress that names a checkpoint is yielded. The best epoch is the first with the lowest validation loss;
    `best(folder)` loads it. Closing the generator saves a checkpoint of the last finished step.

    Raises:
        NonFiniteLoss: the loss of a training step (its update is not made) or of a validation is not finite.
        CorruptCheckpoint: a checkpoint changed while it was being read.
    """
    # 1. network, loss, optimizer
    network.to(device)
    loss = losses.build(config.loss, labels=labels)
    weighted = config.balance == "weighted"
    label_weights = torch.tensor(balance.weights(train_split.targets, labels) if weighted else [1.0] * labels, device=device)
    optimizer = optimizers.build(network, learning_rate=config.learning_rate, weight_decay=config.weight_decay)
    steps = config.epochs * len(train_split.plan(config.batch_size))

    # 2. resume
    state = State()
    if found := checkpoints.latest(folder, fence=fence):
        state = State.from_dict(found.state)
        checkpoints.restore(found, network=network, optimizer=optimizer)
    saved, saved_at = [asdict(state)], time.monotonic()

    def save() -> Progress:
        nonlocal saved, saved_at
        path = checkpoints.save(folder, fence=fence, network=network, optimizer=optimizer, state=asdict(state))
        # The last two and the best of each: should the newest turn out broken, the one before it is still complete.
        saved, saved_at = [saved[-1], asdict(state)], time.monotonic()
        checkpoints.keep(folder, {kept[name] for kept in saved for name in ("step", "best_step")}, fence=fence)
        return Progress("checkpoint", phase="training", epoch=state.epoch, step=state.step, path=str(path.relative_to(folder.parent)))

    # 3. epochs
    try:
        while state.epoch < config.epochs:
            began, done = time.monotonic(), state.step
            order = order_of(train_split, config, epoch=state.epoch)
            for inputs, target in train_split.batches(config.batch_size, order=order, skip=state.batch, epoch=state.epoch):
                rate = learning_rate(
                    state.step, schedule=config.schedule, highest=config.learning_rate, warmup_steps=config.warmup_steps, steps=steps,
                )
                train_step(
                    network, inputs.to(device), target.to(device),
                    loss=loss, label_weights=label_weights, optimizer=optimizer, rate=rate, state=state,
                )
                pace = (time.monotonic() - began) / (state.step - done)
                yield Progress(
                    "step", phase="training", epoch=state.epoch + 1, epochs=config.epochs, step=state.step, steps=steps,
                    train_loss=state.tally.loss, train_accuracy=state.tally.accuracy, learning_rate=rate,
                    images_per_second=len(target) / pace, eta_seconds=pace * (steps - state.step),
                )
                if time.monotonic() - saved_at > SAVE_EVERY_SECONDS:
                    yield save()

            # 4. evaluate, and keep the best
            val = evaluate(network, val_split, loss=loss, device=device, batch_size=config.batch_size)
            if not math.isfinite(val.loss):
                message = f"Expected a finite validation loss after epoch {state.epoch + 1}. Received: {val.loss}."
                raise NonFiniteLoss(message, step=state.step)
            trained, state.tally, state.batch, state.epoch = state.tally, Tally(), 0, state.epoch + 1
            if state.best_val_loss is None or val.loss < state.best_val_loss:
                state.best_val_loss, state.best_epoch, state.best_step = val.loss, state.epoch, state.step

            # 5. say so, and save: in this order, so that no epoch is ever saved as finished and never heard of
            yield Progress(
                "epoch", phase="training", epoch=state.epoch, epochs=config.epochs, step=state.step, steps=steps,
                train_loss=trained.loss, train_accuracy=trained.accuracy, val_loss=val.loss, val_accuracy=val.accuracy,
                val_balanced_accuracy=val.balanced_accuracy,
                val_precision=_short(val.precision), val_recall=_short(val.recall), val_f1=_short(val.f1),
            )
            yield save()
    except GeneratorExit:
        if asdict(state) != saved[-1]:
            save()
        raise


def order_of(split: Split, config: TrainConfig, *, epoch: int) -> list[int]:
    """The positions in `split` that an epoch goes through: a pure function, so that a resumed run sees what the first would have."""
    if config.balance == "sampler":
        return balance.order(split.targets, seed=config.seed, epoch=epoch)
    return shuffled(len(split), seed=config.seed, epoch=epoch)


def train_step(
    network: nn.Module, inputs: Tensor, target: Tensor,
    *, loss: Loss, label_weights: Tensor, optimizer: Optimizer, rate: float, state: State,
) -> None:
    """One update: forward, is the loss finite, backward, step. Counts the batch in `state`.

    Each image's loss is multiplied by its label's weight (C,), and the mean is over images, not over weights: a batch that happens to
    hold only common labels makes a small step. What is counted, and reported, is the loss itself.

    Raises:
        NonFiniteLoss: before the update; weights and state are unchanged.
    """
    network.train()
    optimizer.zero_grad(set_to_none=True)
    logits = network(inputs)
    image_losses = loss(logits, target)
    mean = (image_losses * label_weights[target]).mean()
    if not torch.isfinite(mean):
        raise NonFiniteLoss(f"Expected a finite loss at step {state.step}. Received: {mean.item()}.", step=state.step)
    mean.backward()  # type: ignore[no-untyped-call]
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    state.tally.add(image_losses, logits, target)
    state.step += 1
    state.batch += 1


@torch.no_grad()
def evaluate(network: nn.Module, split: Split, *, loss: Loss, device: str, batch_size: int) -> Tally:
    """Loss and accuracy over a whole split in evaluation mode; the network is left in the mode it came in."""
    training = network.training
    network.eval()
    tally = Tally()
    for inputs, target in split.batches(batch_size):
        logits, there = network(inputs.to(device)), target.to(device)
        tally.add(loss(logits, there), logits, there)
    network.train(training)
    return tally


def best(folder: Path) -> checkpoints.Checkpoint:
    """The checkpoint of the best epoch so far.

    Raises:
        CorruptCheckpoint: there is none.
    """
    newest = checkpoints.latest(folder, fence=-1)  # only looks
    return checkpoints.at(folder, newest.state["best_step"] if newest else 0)


def _short(figures: list[float]) -> list[float]:
    """Rounded, so that a thousand labels fit in a line."""
    return [round(figure, 4) for figure in figures]
