"""patient_of: a host's folder as a Patient.

The same for a healthy host and for a mutant. It hands over what the host's config declares and the host's own functions and objects; it
reads nothing of the host's text. The host's modules have names that every user's have (data, train, model): a process can have only one.
"""

import importlib
import io
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from catdog.doctor import Data, DataSplit, Intent, Patient, Serving, Training
from catdog.doctor.patient import PROBE, Batch, Loss

BEST = "best.pt"
"""Where a host's training leaves its best."""


class Host:
    """A host's modules."""

    def __init__(self, folder: Path) -> None:
        sys.path.insert(0, str(folder))
        modules: Iterable[Any] = map(importlib.import_module, ("ckpt", "data", "serve", "train"))
        self.ckpt, self.data, self.serve, self.train = modules
        self.config = importlib.import_module("config").Config.read(folder / "config.json")


def patient_of(folder: Path) -> Patient:
    """Everything that a host has."""
    host = Host(folder)
    config = host.config
    host.data.seed_everything(config.seed)
    sets = host.data.make_sets(config)
    model, criterion, optimizer, scheduler = host.train.prepare(config)
    host.train.train_mode(model, config)
    folder = Path(tempfile.mkdtemp(prefix="training-"))
    return Patient(
        model, _varied(sets["train"]), criterion, optimizer, step=Step(host), evaluate=host.train.evaluate, scheduler=scheduler,
        schedule=lambda: _schedule(host, sets), data=_data(host, sets), training=_training(host, sets, folder),
        serving=Service(host, model, folder).as_serving(), intent=_intent(config),
    )


@dataclass
class Step:
    """The host's step, which is told its place in the epoch."""

    host: Host
    position: int = 0

    def __call__(self, model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> object:
        position, self.position = self.position, self.position + 1
        return self.host.train.train_step(model, batch, loss, optimizer, self.host.config, position)


def _varied(dataset: Sequence[tuple[Tensor, int]], count: int = 2 * PROBE) -> Batch:
    """Items from all over a data set; of every label some, if there are any."""
    spread = dict.fromkeys(round(one) for one in torch.linspace(0, len(dataset) - 1, 8 * count).tolist())
    by_label: dict[int, list[tuple[Tensor, int]]] = {}
    for item in (dataset[index] for index in spread):
        by_label.setdefault(item[1], []).append(item)
    chosen = [item for items in by_label.values() for item in items[: count // len(by_label)]]
    return torch.stack([image for image, _ in chosen]), torch.tensor([target for _, target in chosen])


def _intent(config: Any) -> Intent:
    pretrained = torch.load(config.pretrained, weights_only=True) if config.pretrained else None
    return Intent(
        trainable=("*",) if config.trainable == "all" else ("head.*",), loss=config.loss, reduction=config.reduction,
        accumulate=config.accumulate, freeze_strict=config.freeze == "strict", head=("head.*",),
        pretrained=pretrained and {f"backbone.{name}": tensor for name, tensor in pretrained.items()},
    )


def _data(host: Host, sets: Mapping[str, Any]) -> Data:
    config, loaders = host.config, {}

    def labels_in(path: Path) -> list[str]:
        return [label for label in config.labels if label in Path(path).name]

    def prepare(content: bytes) -> Tensor:
        prepared: Tensor = sets["val"].transform(host.data.load(io.BytesIO(content)))
        return prepared

    def loader(split: str, workers: int) -> Iterable[Batch]:
        if workers not in loaders:
            loaders[workers] = host.data.make_loaders(sets, type(config)(**{**config.to_dict(), "workers": workers}))
        batches: Iterable[Batch] = loaders[workers][split]
        return batches

    files = sorted(path for path in Path(config.data).glob("*/*"))
    return Data(
        config.labels, {split: DataSplit(items, items.paths) for split, items in sets.items()}, labels_in, prepare=prepare,
        normalise=(config.mean, config.std), loader=loader, augmented=config.augment, order=config.order,
        population=[label for path in files for label in labels_in(path)[:1]],
    )


def _training(host: Host, sets: Mapping[str, Any], folder: Path) -> Training:
    def fit() -> Sequence[Mapping[str, float]]:
        host.data.seed_everything(host.config.seed)
        history: Sequence[Mapping[str, float]] = host.train.fit(
            *host.train.prepare(host.config), host.data.make_loaders(sets, host.config), host.config, folder
        )
        return history

    def best() -> nn.Module:
        model: nn.Module = host.ckpt.load(folder / BEST, host.config)
        return model

    return Training(fit, best, best_by=host.config.select_by)


class Service:
    """The host's predictor of what its training has left; until there is such a file, of the network as it begins."""

    def __init__(self, host: Host, model: nn.Module, folder: Path) -> None:
        self.host, self.best, self.present = host, folder / BEST, folder / "present.pt"
        host.ckpt.save(self.present, model, host.config, {})
        self.written, self.predictor = 0, host.serve.Predictor(self.present, host.config)

    def predictor_now(self) -> Any:
        """Read anew where the file has been written anew."""
        if self.best.exists() and (written := self.best.stat().st_mtime_ns) != self.written:
            self.written, self.predictor = written, self.host.serve.Predictor(self.best, self.host.config)
        return self.predictor

    def as_serving(self) -> Serving:
        """As the doctor knows it."""
        return Serving(
            lambda content: self.predictor_now().prepare(content), lambda contents: self.predictor_now().probabilities(contents),
            self.predictor.labels, logits=lambda prepared: self.predictor_now().logits(prepared),
        )


def _schedule(host: Host, sets: Mapping[str, Any]) -> list[float]:
    """The host's own loop over as many batches of nothing, with a network of nothing."""
    with torch.random.fork_rng(devices=[]):
        return _rates(host, {split: len(loader) for split, loader in host.data.make_loaders(sets, host.config).items()})


def _rates(host: Host, counts: Mapping[str, int]) -> list[float]:
    model = nn.Sequential(OrderedDict(flatten=nn.Flatten(), head=nn.Linear(1, len(host.config.labels))))
    optimizer = host.train.make_optimizer(model, host.config)
    rates: list[float] = []

    def note(stepped: Optimizer, *arguments: object) -> None:
        if stepped is optimizer:
            rates.append(stepped.param_groups[0]["lr"])

    handle = register_optimizer_step_pre_hook(note)
    try:
        host.train.fit(
            model, nn.CrossEntropyLoss(), optimizer, host.train.make_scheduler(optimizer, host.config),
            {split: [(torch.zeros(2, 1, 1, 1), torch.tensor([0, 1]))] * count for split, count in counts.items()},
            host.config, tempfile.mkdtemp(prefix="schedule-"),
        )
    finally:
        handle.remove()
    return rates
