"""diagnose: what the epochs of a training say about it, finished or under way, and what to do next. Read without torch.

C labels. Each diagnosis has its figures beside it; none is an error, as a curve is only ever a sign. What hides another is said alone:
of a learning rate that is too high nothing else can be told.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median
from typing import Any

from catdog.config import TrainConfig
from catdog.doctor.findings import Culprit, Finding, Severity
from catdog.labels import shown

SEEN = 0.2
"""Share of the planned epochs from which on it is no longer the beginning."""
SLOW = 0.005
"""Fall of the loss an epoch, as a share of it, above which more epochs would help."""
WAITED = 0.3
"""Share of its time for which a loop that waits is worth mending."""
LONG = 2.0
"""Seconds an epoch. In a shorter one it is the threads that wait for each other, not the network for pictures."""


@dataclass(frozen=True, slots=True)
class History:
    """The epochs so far, in order, and what the run was meant to be."""

    epochs: Sequence[Mapping[str, Any]]
    config: TrainConfig | None = None
    labels: Sequence[str] = ()
    has_ended: bool = False
    """Before its planned end too: by patience or a budget."""

    def of(self, name: str) -> list[float]:
        """A measure of every epoch; empty where one of them has none."""
        values = [epoch.get(name) for epoch in self.epochs]
        return [] if any(value is None for value in values) else [float(value) for value in values if value is not None]

    @property
    def train(self) -> list[float]:
        """The loss of train, measured as val's where that was done."""
        return self.of("train_eval_loss") or self.of("train_loss")

    @property
    def done(self) -> float:
        """Share of the planned epochs."""
        last = self.epochs[-1]
        return 1.0 if self.has_ended else float(last["epoch"] / (last.get("epochs") or last["epoch"]))

    @property
    def outputs(self) -> int:
        """C, as far as it is known; two is the least."""
        return len(self.labels) or len(self.epochs[-1].get("val_recall") or ()) or 2

    @property
    def chance(self) -> float:
        """The loss of who knows nothing and says so: every label is equally probable. The formulas are losses.py's."""
        share = 1 / self.outputs
        return {
            "cross_entropy": -math.log(share), "mse": (1 - share) * share,
            "bce_with_logits": -share * math.log(share) - (1 - share) * math.log(1 - share),
        }[self.config.loss if self.config else "cross_entropy"]

    @property
    def rate(self) -> str:
        """The learning rate, for a sentence."""
        return f"learning_rate={self.config.learning_rate:g}" if self.config else "the learning rate"

    @property
    def lower_rate(self) -> str:
        """A third of it."""
        return f"learning_rate={self.config.learning_rate / 3:.1g}" if self.config else "a third of the learning rate"


def diagnose(
    epochs: Sequence[Mapping[str, Any]], config: TrainConfig | None = None, *, labels: Sequence[str] = (), has_ended: bool = False,
) -> list[Finding]:
    """What is to be said of a history, as epochs.read gives it; nothing of a healthy one, and of one too short to tell.

    Codes: C01 learning rate too high, C02 collapse to one label, C03 nothing learnt, C04 underfitting, C05 overfitting,
    C06 too good to be true, C07 waiting for data.
    """
    if not epochs:
        return []
    history = History(epochs, config, labels, has_ended)
    hiding = (rate_too_high, collapse, nothing_learnt, underfitting, overfitting)
    first = next((finding for ask in hiding if (finding := ask(history))), None)
    return [finding for finding in (first, too_good(history), waiting(history)) if finding]


def rate_too_high(history: History) -> Finding | None:
    """The loss of training rises, jumps or swings."""
    losses, chance = history.of("train_loss"), history.chance
    if len(losses) < 3:
        return None
    lowest, highest = min(losses), max(losses[1:])
    rises = sum(after > 1.05 * before and after > 0.1 * chance for before, after in pairwise(losses))
    if losses[-1] > max(1.5 * lowest, chance):
        sign = f"train_loss rose from {lowest:.4g} to {losses[-1]:.4g}"
    elif highest > 3 * max(losses[0], chance):
        sign = f"train_loss jumped to {highest:.4g} in epoch {history.epochs[losses.index(highest)]['epoch']}"
    elif len(losses) >= 6 and rises > (len(losses) - 1) / 3:
        sign = f"train_loss rose by more than 5 % in {rises} of {len(losses) - 1} epochs"
    else:
        return None
    return _finding(
        "C01", "The learning rate is too high: the training jumps about instead of descending.", history.rate,
        (sign, f"who knows nothing has {chance:.4g}"),
        f"Try {history.lower_rate}, or let `catdog train … --find-rate` propose one; a warm-up (warmup_steps) tames the beginning.",
    )


def collapse(history: History) -> Finding | None:
    """Every picture gets the same label."""
    recalls = [epoch.get("val_recall") or [] for epoch in history.epochs[-3:]]
    if len(recalls) < 3 or history.done < SEEN:
        return None
    only = {_only(recall) for recall in recalls}
    if len(only) > 1 or None in only:
        return None
    place = only.pop() or 0
    label = shown(history.labels[place]) if history.labels else f"number {place}"
    return _finding(
        "C02", f"The network answers {label}, whatever it is shown.", f"label {label}",
        (f"in the last 3 epochs its recall on val is {recalls[-1][place]:.3f}, that of every other label 0.01 or less",
         f"val_loss {history.epochs[-1].get('val_loss', math.nan):.4g}; who knows nothing has {history.chance:.4g}"),
        "Look at the counts by label (`balance: weighted` or `sampler` where they are unequal), at the labels of a contact sheet "
        "(`catdog data sheet`), and try a lower learning rate.",
    )


def nothing_learnt(history: History) -> Finding | None:
    """Train and val are where they began: at chance."""
    train, val, chance = history.train, history.of("val_loss"), history.chance
    if len(train) < 3 or not val or history.done < SEEN or min(train) < 0.97 * chance or min(val) < 0.97 * chance:
        return None
    return _finding(
        "C03", "Nothing was learnt: the losses of train and val are those of who knows nothing.", history.rate,
        (f"after {len(train)} epochs train {min(train):.4g} and val {min(val):.4g} at best; who knows nothing has {chance:.4g}",),
        "Do the labels belong to the pictures (`catdog data sheet`)? Let `catdog train … --find-rate` propose a learning rate; begin with "
        "pretrained weights; what `catdog doctor` says of the network comes first.",
    )


def underfitting(history: History) -> Finding | None:
    """Train itself is not answered well, and val not worse."""
    train, val, chance = history.train, history.of("val_loss"), history.chance
    if len(train) < 6 or not val or history.done < 1 or train[-1] < 0.65 * chance or val[-1] - train[-1] > 0.15 * chance:
        return None
    third = len(train) // 3
    before = fmean(train[-2 * third : -third])
    fall = (before - fmean(train[-third:])) / before / third
    evidence = (
        f"train {train[-1]:.4g}, val {val[-1]:.4g}; who knows nothing has {chance:.4g}",
        f"over the last {2 * third} epochs the loss of train fell by {fall:.1%} an epoch",
    )
    if fall > SLOW:
        return _finding(
            "C04", "It was still learning when it ended: neither train nor val is answered well yet.", "epochs", evidence,
            "Train for longer: resume it with more epochs (POST /v1/jobs/{id}/resume, `catdog train --resume-from`).", severity="info",
        )
    return _finding(
        "C04", "It underfits: the pictures it is trained on are not answered well either, and it gets no better.", "trainable", evidence,
        "Let more of the network learn (trainable: all or stages:N), take a larger network or image_size, vary the pictures less "
        "(augment), decay less; or a higher learning rate, which `catdog train … --find-rate` proposes.",
    )


def overfitting(history: History) -> Finding | None:
    """Val gets worse while train gets better."""
    train, val, chance = history.train, history.of("val_loss"), history.chance
    if len(train) < 4 or not val:
        return None
    best = val.index(min(val))
    now, known = fmean(val[-3:]), train[-1]
    worse = now - val[best] > max(0.15 * val[best], 0.05 * chance)
    rises = best < len(val) - 3 and worse and train[best] - known > min(0.1 * train[best], 0.05 * chance) > 0
    apart = now - known > 0.3 * chance and known < 0.5 * now
    if not rises and not apart:
        return None
    epoch = history.epochs[best]["epoch"]
    return _finding(
        "C05", f"It overfits: from epoch {epoch} on it learns train by heart and val gets no better.", f"epoch {epoch}",
        (f"val is lowest in epoch {epoch} with {val[best]:.4g}, and {now:.4g} in the end",
         f"train went from {train[best]:.4g} to {known:.4g}"),
        "The best epoch is kept in any case. More pictures help most; then more variation (augment: strong, mixup), fewer trained "
        "parameters (trainable), weight_decay, label_smoothing. patience ends such a training earlier.",
    )


def too_good(history: History) -> Finding | None:
    """Val is answered better than a network can know it."""
    val, seen = history.of("val_accuracy"), history.of("train_eval_accuracy")
    if len(val) >= 3 and seen and all(better - as_well >= 0.1 for better, as_well in zip(val[-3:], seen[-3:], strict=True)):
        sign = f"val accuracy {val[-1]:.3f}, and {seen[-1]:.3f} on pictures that it was trained on"
    elif val and val[0] == 1 and history.epochs[0]["epoch"] == 1 and history.config and history.config.weights == "none":
        sign = "val accuracy 1.000 after the first epoch, from random weights"
    else:
        return None
    return _finding(
        "C06", "It is too good to be true: val may be easier than it should be, or known already.", "val", (sign,),
        "Read the report of the data set: copies across splits, and labels that can be told by size, format or date "
        "(`catdog data report`). Some data are as easy as that.",
    )


def waiting(history: History) -> Finding | None:
    """The network waits for its pictures."""
    waited, took = history.of("waited_seconds")[-3:], history.of("train_seconds")[-3:]
    if not waited or not took or median(took) < LONG or (share := sum(waited) / sum(took)) < WAITED:
        return None
    return _finding(
        "C07", "The training waits for data: the network could go faster than its pictures come.", "data loading",
        (f"{share:.0%} of the last epochs went by waiting for the next batch: {sum(waited):.0f} of {sum(took):.0f} seconds",),
        "Give the cache room (CATDOG_CACHE_BYTES; `catdog config` shows it), put it on a local disk, use a smaller image_size or stored "
        "pictures that are not much larger, or more CPU cores beside the GPU.",
    )


def _only(recall: Sequence[float]) -> int | None:
    """The label that gets every picture."""
    known = [place for place, share in enumerate(recall) if share > 0.01]
    return known[0] if len(recall) > 1 and len(known) == 1 and recall[known[0]] >= 0.99 else None


def _finding(
    code: str, message: str, what: str, evidence: tuple[str, ...], remedy: str, *, severity: Severity = "warning",
) -> Finding:
    return Finding(code, severity, message, Culprit(what), evidence, remedy)
