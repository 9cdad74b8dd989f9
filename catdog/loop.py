"""train, train_step, evaluate: THE training loop, told in the order one would explain it.

    for progress in train(network, splits, config, ...):
        print(progress.to_json())

N images, C labels. A batch is (inputs, target): inputs are pixels (N, S, S, 3) uint8 for a whole network, or
features (N, F) float32 for a head on a frozen backbone; the loop cannot tell. target is (N,) int64, logits (N, C) float.

The loop knows nothing of queues, services or progress bars. It says what happens by yielding Progress; whoever iterates
reports, and stops it by closing the generator: the state of the last finished step is then on disk.
"""

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from catdog import balance, checkpoints, micro_batches, optimizers, replay
from catdog import device as devices
from catdog.config import BATCH_SIZE, TrainConfig
from catdog.errors import NonFiniteLoss
from catdog.labels import listed
from catdog.learner import Learner
from catdog.loaders import Split, Splits, Stopwatch, shuffled
from catdog.losses import Loss
from catdog.metrics import Answers, Measures, Tally
from catdog.mixing import mix
from catdog.progress import Progress
from catdog.ranks import ALONE, Ranks
from catdog.schedules import planned
from catdog.state import State


def train(
    network: nn.Module, splits: Splits, config: TrainConfig,
    *, labels: int, device: str, folder: Path, fence: int = 0, ranks: Ranks = ALONE,
) -> Generator[Progress]:
    """Train `network` in place; yield Progress after every step, every epoch and every checkpoint.

    Goes on from the newest valid checkpoint under `folder`, if there is one. Everything needed to resume is on disk
    before a Progress that names a checkpoint is yielded. The best epoch is the first with the best measure of val;
    `best(folder)` loads it. Closing the generator saves a checkpoint of the last finished step.

    Raises:
        NonFiniteLoss: the loss or gradient of a training step (its update is not made) or the loss of a validation is not finite.
        CorruptCheckpoint: a checkpoint changed while it was being read.
    """
    # 1. network, loss, optimizer
    learner = Learner.build(network, config, targets=splits.train.targets, labels=labels, device=device, ranks=ranks)
    batch_size = config.batch_size or BATCH_SIZE
    steps_per_epoch = len(splits.train.plan(batch_size, ranks=ranks.size))
    steps = config.epochs * steps_per_epoch
    rate_at = planned(config, steps_per_epoch=steps_per_epoch)

    # 2. resume
    state = _resumed(learner, folder, fence=fence)
    saved, saved_at, clock = [asdict(state)], time.monotonic(), time.monotonic() - state.seconds

    def save() -> Iterator[Progress]:
        nonlocal saved, saved_at
        if not ranks.is_first:
            return
        state.scaler = learner.scaler.state_dict()
        path = checkpoints.save(
            folder, fence=fence, network=learner.network, average=learner.average and learner.average.module,
            optimizer=learner.optimizer, state=asdict(state),
        )
        # The last two and the best of each: should the newest turn out broken, the one before it is still complete.
        saved, saved_at = [saved[-1], asdict(state)], time.monotonic()
        checkpoints.keep(folder, {kept[name] for kept in saved for name in ("step", "best_step")}, fence=fence)
        yield Progress("checkpoint", phase="training", epoch=state.epoch, step=state.step, path=str(path.relative_to(folder.parent)))

    # 3. epochs
    try:
        while state.stop_reason(config) is None:
            learner.train_head_only(state.epoch < config.head_epochs)
            began, done = time.monotonic(), state.step
            plan = splits.train.plan(batch_size, order_of(splits.train, config, epoch=state.epoch), ranks=ranks.size)
            said = Progress("step", phase="training", epoch=state.epoch + 1, epochs=config.epochs, step=state.step, steps=steps)
            batches, wait = splits.train.batches(plan, skip=state.batch, epoch=state.epoch, ranks=ranks), Stopwatch()
            for inputs, target in () if state.batch and state.is_out_of_time(config) else wait.over(batches):
                learner.set_rate(rate := rate_at(state.step))
                yield from _step_that_fits(learner, inputs, target, batch=plan[state.batch], split=splits.train, state=state, folder=folder)
                state.seconds = ranks.first_says(time.monotonic() - clock)
                pace = (time.monotonic() - began) / (state.step - done)
                yield (said := replace(
                    said, step=state.step, train_loss=state.tally.loss, train_accuracy=state.tally.accuracy, learning_rate=rate,
                    images_per_second=len(target) * ranks.size / pace, eta_seconds=pace * (steps - state.step),
                ))
                if state.is_out_of_time(config):
                    break
                is_due = time.monotonic() - saved_at > 60 * config.save_minutes or state.step % (config.save_steps or steps) == 0
                if is_due and state.batch < len(plan):  # the end of the epoch has a checkpoint of its own
                    yield from save()

            # 4. evaluate, and keep the best
            took = round(time.monotonic() - began, 3)
            ranks.align(learner.judged)
            idle = replace(said, learning_rate=None, images_per_second=None, eta_seconds=None)
            val = yield from _measured(learner, splits.val, idle)
            seen = (yield from _measured(learner, splits.train_eval, idle)) if splits.train_eval is not None else None
            trained, state.tally = state.tally, Tally()
            state.note(val, config)

            # 5. say so, and save: in this order, so that no epoch is ever saved as finished and never heard of
            yield replace(
                _epoch(said, state, trained, val, seen), learning_rate=rate_at(state.step - 1), train_seconds=took,
                waited_seconds=round(wait.seconds, 3),
            )
            yield from save()
    except GeneratorExit:
        if asdict(state) != saved[-1]:
            for _ in save():
                pass
        raise


def order_of(split: Split, config: TrainConfig, *, epoch: int) -> list[int]:
    """The positions in `split` that an epoch goes through: a pure function, so that a resumed run sees what the first would have."""
    if config.balance == "sampler":
        return balance.order(split.targets, seed=config.seed, epoch=epoch)
    return shuffled(len(split), seed=config.seed, epoch=epoch)


def train_step(learner: Learner, inputs: Tensor, target: Tensor, *, images: int, state: State) -> None:
    """One update from this rank's shard of a batch of `images`: forward, is the loss finite, backward, clip, step. Counts it in `state`.

    Each image's loss is multiplied by its label's weight, and the mean is over images, not over weights: a batch that happens to
    hold only common labels makes a small step. A batch goes through in micro-batches, whose gradients add up to those of the batch,
    however ragged the last one is; only batch statistics are then of fewer images. What is counted, and reported, is the loss itself.

    Raises:
        NonFiniteLoss: before the update; weights and state are unchanged.
    """
    learner.optimizer.zero_grad(set_to_none=True)
    optimizers.set_training(learner.network)
    learner.ranks.reseed(learner.config.seed, state.step)
    mixed = mix(inputs, target, learner.config, step=state.step)
    pieces, seen = micro_batches.number_of(learner, images, state), []
    for number, part in enumerate(torch.arange(len(target)).tensor_split(pieces), 1):
        with learner.ranks.no_sync(learner.shared, is_last=number == pieces):
            with learner.autocast():
                logits = learner.forward(mixed.inputs[part])
                losses, weighted = learner.losses_of(logits, [(wanted[part], lam) for wanted, lam in mixed.parts])
            mean = weighted.sum() / images
            if not torch.isfinite(learner.ranks.sum(mean.detach().clone())):
                raise NonFiniteLoss(f"Expected a finite loss at step {state.step}. Received: {mean.item()}.", step=state.step)
            # Ranks average their gradients, and the mean is over the images of all.
            learner.scaler.scale(mean * learner.ranks.size).backward()  # type: ignore[no-untyped-call]
        seen.append((losses.detach(), logits.detach()))
    learner.scaler.unscale_(learner.optimizer)
    gradients = [parameter.grad for parameter in learner.parameters if parameter.grad is not None]
    length = get_total_norm(gradients)
    # float16's scaler leaves such a step out and scales less from then on; below 1 it is not the scale that makes it overflow.
    scale = learner.scaler.get_scale()
    if not torch.isfinite(length) and scale <= 1:
        raise NonFiniteLoss(f"Expected a finite gradient at step {state.step}. Received: one of norm {length.item()}.", step=state.step)
    if learner.config.clip_norm is not None:
        clip_grads_with_norm_(learner.parameters, learner.config.clip_norm, length)
    learner.scaler.step(learner.optimizer)
    learner.scaler.update()
    if learner.average is not None and learner.scaler.get_scale() >= scale:
        learner.average.update_parameters(learner.network)
    losses, logits = (torch.cat(parts) for parts in zip(*seen, strict=True))
    state.tally.add(*(learner.ranks.gather(part, whole=images) for part in (losses, logits, target)))
    state.step += 1
    state.batch += 1


@torch.no_grad()
def evaluate(
    network: nn.Module, split: Split, *, loss: Loss, batch_size: int, device: str = "cpu", ranks: Ranks = ALONE,
    said: Progress | None = None,
) -> Generator[Progress, None, Answers]:
    """Return what a network answers to a whole split, in evaluation mode and in its weights' own precision, as it will be served.

    Yields a sign of life after every batch: `said` again, or a step of the phase `testing`.
    """
    training = network.training
    network.eval()
    ranks = ranks if len(split) >= ranks.size else ALONE
    answers: list[tuple[Tensor, Tensor, Tensor]] = []
    done = 0
    for inputs, target in split.batches(split.plan(batch_size, ranks.shard(range(len(split))))):
        logits, there = network(inputs.to(device, non_blocking=True)), target.to(device, non_blocking=True)
        answers.append((loss(logits, there).double(), logits, there))
        done += len(target) * ranks.size
        yield said or Progress("step", phase="testing", step=min(done, len(split)), steps=len(split))
    network.train(training)
    return Answers(*(ranks.gather(torch.cat(parts), whole=len(split)).cpu() for parts in zip(*answers, strict=True)))


def outcome(folder: Path) -> tuple[State, checkpoints.Checkpoint]:
    """Where the training that left these checkpoints was last, and the checkpoint of its best epoch so far.

    Raises:
        CorruptCheckpoint: there is none.
    """
    newest = checkpoints.latest(folder, fence=-1)  # only looks
    state = State.from_dict(newest.state) if newest else State()
    return state, newest if newest and newest.step == state.best_step else checkpoints.at(folder, state.best_step)


def best(folder: Path) -> checkpoints.Checkpoint:
    """The checkpoint of the best epoch so far.

    Raises:
        CorruptCheckpoint: there is none.
    """
    return outcome(folder)[1]


def _resumed(learner: Learner, folder: Path, *, fence: int) -> State:
    """Where the newest valid checkpoint was, with everything put back; at the beginning where there is none."""
    found = checkpoints.latest(folder, fence=fence)
    if found is None:
        return State()
    state = State.from_dict(found.state)
    checkpoints.restore(
        found, network=learner.network, average=learner.average and learner.average.module, optimizer=learner.optimizer,
    )
    if state.scaler and learner.scaler.is_enabled():  # the precision may be another one now
        learner.scaler.load_state_dict(state.scaler)
    if learner.average is not None:
        learner.average.n_averaged.fill_(state.step)
    return state


def _step_that_fits(
    learner: Learner, inputs: Tensor, target: Tensor, *, batch: Sequence[int], split: Split, state: State, folder: Path,
) -> Iterator[Progress]:
    """train_step. Out of memory, it is made again in micro-batches of half the size; a number that is not finite is looked into."""
    inputs, target = (part.to(learner.device, non_blocking=True) for part in (inputs, target))
    before = devices.torch_random_state()
    while True:
        try:
            return train_step(learner, inputs, target, images=len(batch), state=state)
        except NonFiniteLoss as error:
            names = [split.names[position] for position in batch] if split.names else []
            if learner.ranks.size > 1:  # a replay would wait for ranks that have left
                raise
            mixed = mix(inputs, target, learner.config, step=state.step)
            raise replay.explained(error, learner, mixed, names=names, random_state=before, folder=folder.parent) from error
        except RuntimeError as error:
            if not micro_batches.can_halve(learner, len(batch), state, because=error):
                raise
        # Here, behind the except, the failed step's tensors are let go. What it did to batch statistics stays: a step's worth.
        yield micro_batches.halve(learner, len(batch), state)


def _measured(learner: Learner, split: Split, said: Progress) -> Generator[Progress, None, Measures]:
    """What is measured of a split at the end of an epoch.

    Raises:
        NonFiniteLoss: of an image. NaN is worse than nothing, and no comparison says so.
    """
    answers = yield from evaluate(
        learner.judged, split, loss=learner.plain_loss, batch_size=learner.config.batch_size or BATCH_SIZE, device=learner.device,
        ranks=learner.ranks, said=said,
    )
    if broken := answers.non_finite:
        names = listed([split.names[position] if split.names else f"image {position}" for position in broken])
        raise NonFiniteLoss(
            f"Expected a finite validation loss after epoch {said.epoch}. Received: {answers.losses.mean().item()}, because of {names}.",
            step=said.step or 0,
        )
    return Measures.of(answers)


def _epoch(said: Progress, state: State, trained: Tally, val: Measures, seen: Measures | None) -> Progress:
    """What is said of a finished epoch."""
    return Progress(
        "epoch", phase="training", epoch=state.epoch, epochs=said.epochs, step=state.step, steps=said.steps, best_epoch=state.best_epoch,
        train_loss=trained.loss, train_accuracy=trained.accuracy,
        train_eval_loss=seen.loss if seen else None, train_eval_accuracy=seen.accuracy if seen else None,
        val_loss=val.loss, val_accuracy=val.accuracy, val_balanced_accuracy=val.balanced_accuracy,
        val_auroc=val.auroc, val_ece=val.ece, val_brier=val.brier,
        val_precision=_short(val.precision), val_recall=_short(val.recall), val_f1=_short(val.f1),
    )


def _short(figures: list[float]) -> list[float]:
    """Rounded, so that a thousand labels fit in a line."""
    return [round(figure, 4) for figure in figures]
