"""Patient, Intent, Data, Training, Serving: what the doctor looks at, and what its owner says that it is meant to be.

N images in a batch, C labels. A patient can be anyone's: the doctor knows only these names of it. What is None is not examined.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from catdog.datasets import Record
from catdog.doctor.findings import Finding

PROBE = 8
"""Images in the batch that is looked at: enough for both labels and for batch statistics."""

ANY_ERROR: tuple[type[BaseException], ...] = (Exception, SystemExit)
"""What somebody's code raises: to leave by sys.exit is an error of theirs like any other, and ends neither the visit nor the run."""

Batch = tuple[Tensor, Tensor]
"""(inputs, target)"""
Loss = Callable[[Any, Tensor], Tensor]
"""(what the network returns, target) -> the loss that the loop goes back from."""


@dataclass(frozen=True, slots=True)
class Intent:
    """What is meant. Nothing is guessed: what is not said here is not held against anyone."""

    trainable: tuple[str, ...] | None = None
    """Patterns of the names of the parameters that are meant to be trained, ("*",) for all; None: those that require a gradient."""
    unused_ok: tuple[str, ...] = ()
    """Patterns of the paths of modules that are meant to do nothing."""
    loss: str | None = None
    """cross_entropy, bce_with_logits, bce, nll or mse; None: a loss of their own, of which only the dependence on the target is judged."""
    reduction: str = "mean"
    label_smoothing: float = 0.0
    label_weights: tuple[float, ...] | None = None
    ignore_index: int | None = None
    accumulate: int = 1
    """Micro-batches, each a call of `step`, between two updates."""
    freeze_strict: bool = False
    """What is not trainable keeps its batch statistics as well."""
    random_eval: bool = False
    """Evaluation is meant to be random (MC dropout)."""
    transductive: bool = False
    """What is said of an image in evaluation is meant to depend on the others of its batch (batch statistics)."""
    ties: tuple[tuple[str, str], ...] = ()
    """Pairs of names of parameters that are meant to be one."""
    pretrained: Mapping[str, Tensor] | None = None
    """The weights that the network is meant to start from, by name of its parameters and buffers."""
    head: tuple[str, ...] = ("head.*", "fc.*", "classifier.*", "heads.*")
    """Patterns of the names of the parameters that are new for these labels."""
    device: torch.device | None = None
    """Where the training computes; None: where the batch is."""
    precision: torch.dtype = torch.float32
    """What products are multiplied in while training (autocast); weights and sums stay float32."""
    restarts: bool = False
    """The learning rate is meant to rise again on its way."""

    def waives(self, path: str) -> bool:
        """Whether a module or parameter, or a module that it lies in, is meant to do nothing."""
        return matches(path, self.unused_ok)


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Whether a path, or a module that it lies in, fits one of the patterns; blocks[0], of a plain list, is called blocks.0."""
    path = path.replace("[", ".").replace("]", "")
    ends = [place for place, letter in enumerate(path) if letter == "."]
    return any(fnmatchcase(path[:end], pattern) for end in (*ends, len(path)) for pattern in patterns)


@dataclass(frozen=True, slots=True)
class DataSplit:
    """One split, as the loop sees it."""

    items: Sequence[tuple[Tensor, int]]
    """items[i] is (input, target), drawn anew at every look: torch's map-style data sets are such."""
    paths: Sequence[Path]
    """The file of each item, in the same order."""


@dataclass(frozen=True, slots=True)
class Data:
    """The data organ."""

    labels: Sequence[str]
    """In the order of the network's outputs."""
    splits: Mapping[str, DataSplit]
    """train, val, test; test may be missing."""
    labels_in: Callable[[Path], Sequence[str]]
    """The declared rule, asked apart from the data set: every label that it can read out of a path. Exactly one is as it should be."""
    prepare: Callable[[bytes], Tensor] | None = None
    """What val and test make of an encoded picture: the very function or transform that `items` uses. (3, S, S) or (S, S, 3)."""
    normalise: tuple[Sequence[float], Sequence[float]] | None = None
    """Mean and deviation by channel (of values in 0..1) that `prepare` is meant to apply; None: values in 0..255 or 0..1 as they are."""
    loader: Callable[[str, int], Iterable[Batch]] | None = None
    """(split, workers) -> one epoch, exactly as the loop goes through it; a second call is the next epoch's."""
    augmented: bool = False
    """train is meant to look otherwise at every look."""
    order: str = "shuffled"
    """How the loop goes through train: shuffled, weighted (with repetitions) or sequential."""
    balance: str = "natural"
    """What is done against unequal numbers: natural (nothing), weighted, sampler or downsample."""
    population: Sequence[str] | None = None
    """The labels of everything that the splits were drawn from."""
    channels: str = "RGB"
    """The order of the colours in what `prepare` makes: BGR where a network is meant to see them so."""
    records: Mapping[Path, Record] | None = None
    """What the import of a catdog data set has found out of each file of `splits`: what is known of it is not looked at again."""


@dataclass(frozen=True, slots=True)
class Training:
    """A short training from its first step to the file it leaves, made by the owner's own code."""

    fit: Callable[[], Sequence[Mapping[str, float]]]
    """Train on Data's splits; returns one record an epoch, with `val_loss` and `val_accuracy`."""
    best: Callable[[], nn.Module]
    """A fresh network with what the training left as its best on disk."""
    best_by: str = "val_loss"
    """The key of a record by which the best epoch is chosen; smaller is better if it ends in loss."""
    coverage: float = 1.0
    """The share of train that an epoch of this short training is meant to read."""


@dataclass(frozen=True, slots=True)
class Serving:
    """What answers users."""

    prepare: Callable[[bytes], Tensor]
    """What serving makes of an uploaded picture, on its way into the network."""
    probabilities: Callable[[Sequence[bytes]], Tensor]
    """(n, C): the answers to uploaded pictures, through everything that a user's picture goes through."""
    labels: Sequence[str]
    """What serving calls its outputs, in their order."""
    logits: Callable[[Tensor], Tensor] | None = None
    """The served network itself: prepared inputs (n, ...) -> (n, C)."""


@dataclass(slots=True)
class Patient:
    """What is examined. `batch` is real data, at most PROBE images."""

    model: nn.Module
    batch: Batch
    loss: Loss | None = None
    optimizer: Optimizer | None = None
    step: Callable[[nn.Module, Batch, Loss, Optimizer], object] | None = None
    """One training step as the loop makes it: step(model, batch, loss, optimizer). None: the doctor makes the usual one."""
    evaluate: Callable[[nn.Module, Iterable[Batch], Loss], Mapping[str, float]] | None = None
    """The loop's own evaluation: evaluate(model, batches, loss) -> {"loss": ..., "accuracy": ...}, those of them that it knows."""
    scheduler: LRScheduler | None = None
    schedule: Callable[[], Sequence[float]] | None = None
    """The learning rate of every optimizer step of the whole training, by calls of the owner's own loop or schedule; changes nothing."""
    scaler: Any = None
    data: Data | None = None
    training: Training | None = None
    serving: Serving | None = None
    intent: Intent = field(default_factory=Intent)
    findings: Sequence[Finding] = ()
    """What this visit has found so far."""
    seconds_per_pass: float = 0.0
    """How long a forward and backward pass of the batch takes here; measured at the beginning of a visit."""
    patience: float = 10.0
    """Seconds after which an examination that does the same again and again makes do with what it has: a third of a visit's budget."""
    known: dict[str, Any] = field(default_factory=dict)
    """What one examination of a visit has found out and another need not find out again."""

    @property
    def labels(self) -> int:
        """C, as far as the batch and the data say."""
        target = self.batch[1]
        if self.data is not None:
            return len(self.data.labels)
        return target.shape[-1] if target.is_floating_point() and target.ndim > 1 else int(target.max()) + 1

    def train_step(self, batch: Batch | None = None) -> object:
        """One step of the owner's own loop, or the usual one; in the network's present mode."""
        inputs, target = batch or self.batch
        if self.loss is None or self.optimizer is None:
            raise ValueError("Expected a patient with a loss and an optimizer; an examination says so by needs=('loss', 'optimizer').")
        return (self.step or usual_step)(self.model, (inputs, target), self.loss, self.optimizer)


def usual_step(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> Tensor:
    """The step that every tutorial shows."""
    inputs, target = batch
    optimizer.zero_grad()
    value = loss(model(inputs), target)
    torch.autograd.backward(value)
    optimizer.step()
    return value


def logits_of(outputs: Any) -> Tensor | None:
    """The tensor among what a network returns that its first loss is about: itself, `.logits`, ["logits"], ["out"], or the first one."""
    if isinstance(outputs, Tensor):
        return outputs
    if isinstance(outputs, Mapping):
        outputs = [outputs[name] for name in ("logits", "out") if name in outputs] or list(outputs.values())
    elif isinstance(getattr(outputs, "logits", None), Tensor):
        outputs = [outputs.logits]
    tensors = [one for one in outputs if isinstance(one, Tensor)] if isinstance(outputs, Sequence) else []
    return tensors[0] if tensors else None


def tensors_in(values: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists, mappings."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, Mapping):
        values = list(values.values())
    return [tensor for value in values for tensor in tensors_in(value)] if isinstance(values, (list, tuple)) else []
