"""structure, learning, data, data_of, serving: a prepared run of catdog's, as patients of the doctor. Nothing of the run itself is touched.

N images, S side, C labels. What is looked at of network and loop is a network built anew, of random weights, at a size at which a pass
takes milliseconds: what is wired wrongly is so at any size, and with any weights.
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from catdog import balance, catalogue, device, labels, loaders, loop, losses, optimizers
from catdog.config import BATCH_SIZE, TrainConfig
from catdog.datasets import Record
from catdog.doctor.patient import PROBE, Batch, Data, DataSplit, Intent, Loss, Patient, Serving
from catdog.inference import Predictor
from catdog.learner import Learner
from catdog.loaders import Pictures, Split
from catdog.metrics import Measures
from catdog.models import Classifier, build
from catdog.ranks import ALONE
from catdog.schedules import planned
from catdog.state import State

if TYPE_CHECKING:
    from catdog.run import Prepared

GLANCE = 64
"""Pixels. Below it the last maps of most networks are a single value: normalisation over one picture has then nothing to normalise by,
and attention nothing to choose from."""
QUIET: dict[str, Any] = {"compile": False, "mixup": 0.0, "cutmix": 0.0, "ema": None, "micro_batch": None, "devices": 1}
"""What is left out for the look: minutes of translating, targets that are mixed, copies."""
FEW = 4
"""Pictures of a batch for a network that is heavy."""
SAMPLE = 256
"""Pictures of a split whose decoding is examined: the import has looked at every one."""


def glance_size(model: str, image_size: int) -> int:
    """Side of the square at which a network is looked at: the smallest it takes from GLANCE on, at most what it trains at."""
    network = catalogue.find(model)
    if network.family == catalogue.USER:  # what it takes, it alone knows
        return image_size
    smallest = max(network.smallest, GLANCE)
    return min(image_size, -(-smallest // network.multiple) * network.multiple)


def structure(prepared: "Prepared") -> Patient:
    """The whole classifier with everything trainable, whatever this run trains of it."""
    config = prepared.config.model_copy(update=QUIET | {"trainable": "all"})
    size = glance_size(config.model, config.image_size)
    network = _anew(prepared, size)
    loss = losses.build(config.loss, labels=len(prepared.dataset.labels))
    return Patient(
        network, few(prepared, size), lambda outputs, target: loss(outputs, target).mean(), optimizers.build(network, config),
        intent=Intent(
            trainable=("*",), unused_ok=config.unused_ok, loss=_reference(config),
            device=torch.device(prepared.device.name), precision=device.multiply_in(config.precision, device=prepared.device.name),
        ),
    )


def learning(prepared: "Prepared") -> Patient:
    """The loop: its own step and evaluation with what it trains. A head on a frozen backbone has what the backbone makes of pictures."""
    config, dataset = prepared.config.model_copy(update=QUIET), prepared.dataset
    if prepared.frozen:
        network: nn.Module = copy.deepcopy(prepared.classifier.head)
        inputs, target = few(prepared, config.image_size)
        batch = _features(prepared.classifier, inputs), target
    else:
        size = glance_size(config.model, config.image_size)
        network, batch = _anew(prepared, size), few(prepared, size)
        optimizers.freeze(network, config.trainable)
    targets = torch.tensor([dataset.target(record) for record in prepared.records["train"]])
    learner = Learner.build(
        network, config, targets=targets, labels=len(dataset.labels), device=prepared.device.name, ranks=ALONE,
    )
    learner.set_rate(config.learning_rate)
    return Patient(
        learner.network, (batch[0].to(learner.device), batch[1].to(learner.device)), _mean(learner), learner.optimizer,
        step=_step(learner), evaluate=_evaluate(learner), schedule=lambda: _rates(config, len(targets)),
        scaler=learner.scaler if learner.scaler.is_enabled() else None, intent=_intent(learner, config),
    )


def data(prepared: "Prepared", *names: str) -> Data:
    """Some of the splits as the loop sees them: of each a fair sample."""
    config, records = prepared.config, {name: prepared.records[name] for name in names}
    pictures = {name: replace(prepared.seen(name), records=sample(its, seed=config.seed)) for name, its in records.items()}
    return data_of(pictures, config, population=[record.label for its in records.values() for record in its])


def data_of(
    pictures: Mapping[str, Pictures], config: TrainConfig, *, population: Sequence[str],
    transform: Callable[[Tensor], Tensor] = Tensor.clone, normalise: tuple[Sequence[float], Sequence[float]] | None = None,
) -> Data:
    """Pictures by split. What is made of one's pixels (S, S, 3) uint8 says `transform`, for one picture or a stack of them."""
    (dataset, *_), (preprocess, *_) = zip(*((one.dataset, one.preprocess) for one in pictures.values()), strict=True)
    epochs: Counter[str] = Counter()

    def loader(split: str, workers: int) -> Iterable[Batch]:
        whole = loaders.pixels(pictures[split], threads=max(1, workers))
        epoch, epochs[split] = epochs[split], epochs[split] + 1
        order = loop.order_of(whole, config, epoch=epoch) if split == "train" else None
        for inputs, target in whole.batches(whole.plan(config.batch_size or BATCH_SIZE, order), epoch=epoch):
            yield transform(inputs), target

    def preprocess_picture(picture: bytes) -> Tensor:
        return transform(torch.from_numpy(preprocess.pixels_of(picture).copy()))

    by_path = {dataset.path(record): record for one in pictures.values() for record in one.records}
    return Data(
        labels=dataset.labels,
        splits={
            name: DataSplit(Looks(one, transform), [dataset.path(record) for record in one.records]) for name, one in pictures.items()
        },
        labels_in=_rule(dataset.records, dataset.labels, by_path),
        prepare=preprocess_picture, normalise=normalise,
        loader=loader, augmented=config.augment != "none", order="weighted" if config.balance == "sampler" else "shuffled",
        balance=config.balance, population=population,
    )


def serving(prepared: "Prepared", predictor: Predictor, graph: Path | None = None) -> Patient:
    """A package that is to be published, beside the network that was trained, which is on the CPU.

    `graph` answers with logits in place of the package's own.
    """
    session = device.session(graph or predictor.folder / "model.onnx", device="cpu", threads=0)

    def prepare(picture: bytes) -> Tensor:
        return torch.from_numpy(predictor.preprocess.pixels_of(picture).copy())

    def probabilities(pictures: Sequence[bytes]) -> Tensor:
        answers = predictor.predict(np.stack([predictor.preprocess.pixels_of(picture) for picture in pictures]))
        return torch.tensor([list(answer.probabilities.values()) for answer in answers])

    def logits(pixels: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"pixels": pixels.numpy()})[0])

    return Patient(
        prepared.classifier.eval(), few(prepared, prepared.config.image_size, split="val"), data=data(prepared, "val"),
        serving=Serving(prepare, probabilities, predictor.labels, logits),
    )


class Looks(Sequence[Any]):
    """Pictures as (what is made of pixels (S, S, 3) uint8, target), each time as the next epoch would see them."""

    def __init__(self, pictures: Pictures, transform: Callable[[Tensor], Tensor]) -> None:
        self._pictures, self._transform = pictures, transform
        self._looks: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._pictures.records)

    def __getitem__(self, position: Any) -> Any:
        if isinstance(position, slice):
            return [self[one] for one in range(*position.indices(len(self)))]
        place = range(len(self))[position]
        epoch, self._looks[place] = self._looks[place], self._looks[place] + 1
        view = self._pictures.view(self._pictures.decode(place), place, epoch)
        return self._transform(torch.from_numpy(view.copy())), self._pictures.dataset.target(self._pictures.records[place])


def _anew(prepared: "Prepared", size: int) -> Classifier:
    return build(prepared.config.model, labels=prepared.dataset.labels, weights="none", image_size=size, weights_folder=None)


def few(prepared: "Prepared", size: int, *, split: str = "train") -> Batch:
    """Pixels (N, size, size, 3) uint8 and target (N,) int64 of a few pictures, of as many labels as possible."""
    wanted = FEW if prepared.is_heavy else PROBE
    chosen = balance.draw(prepared.records[split], min(wanted, len(prepared.records[split])), seed=prepared.config.seed)
    seen = Pictures(prepared.dataset, chosen, replace(prepared.preprocess, image_size=size))
    return torch.from_numpy(np.stack([seen.decode(place) for place in range(len(chosen))])), seen.targets


def _features(classifier: Classifier, pixels: Tensor) -> Tensor:
    """(N, F), and the classifier in the mode in which it was."""
    modes = [(module, module.training) for module in classifier.modules()]
    try:
        with torch.no_grad():
            return classifier.eval().features(pixels)
    finally:
        for module, training in modes:
            module.training = training


def _mean(learner: Learner) -> Loss:
    def loss(outputs: Any, target: Tensor) -> Tensor:
        """What a step goes back from: the mean over images, each by the weight of its label."""
        _, weighted = learner.losses_of(outputs, [(target, 1.0)])
        return weighted.mean()

    return loss


def _step(learner: Learner) -> Callable[[nn.Module, Batch, Loss, Optimizer], object]:
    def step(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> None:
        """The loop's train_step, with a loss that says of each image what all have together."""
        inputs, target = batch
        own = replace(
            learner, network=model, optimizer=optimizer, label_weights=torch.ones_like(learner.label_weights),
            loss=lambda outputs, wanted: loss(outputs, wanted).expand(len(wanted)),
        )
        own.shared = own.forward = model
        loop.train_step(own, inputs, target, images=len(target), state=State())

    return step


def _evaluate(learner: Learner) -> Callable[[nn.Module, Iterable[Batch], Loss], Mapping[str, float]]:
    def evaluate(model: nn.Module, batches: Iterable[Batch], loss: Loss) -> Mapping[str, float]:
        """The loop's evaluate and what is measured of its answers, in batches of the first one's size."""
        parts = list(batches)
        inputs, target = torch.cat([part for part, _ in parts]), torch.cat([part for _, part in parts])

        def each(outputs: Tensor, wanted: Tensor) -> Tensor:
            return torch.stack([loss(outputs[place : place + 1], wanted[place : place + 1]) for place in range(len(wanted))])

        split = Split(target, lambda positions, _: inputs[list(positions)])
        answering = loop.evaluate(model, split, loss=each, batch_size=len(parts[0][1]), device=learner.device)
        while True:
            try:
                next(answering)
            except StopIteration as end:
                measures = Measures.of(end.value)
                return {"loss": measures.loss, "accuracy": measures.accuracy}

    return evaluate


def _rates(config: TrainConfig, images: int) -> list[float]:
    steps = len(Split(torch.empty(images), lambda *_: torch.empty(0)).plan(config.batch_size or BATCH_SIZE))
    return list(map(planned(config, steps_per_epoch=steps), range(config.epochs * steps)))


def _intent(learner: Learner, config: TrainConfig) -> Intent:
    trained = {id(parameter) for parameter in learner.parameters}
    names = dict(learner.network.named_parameters())
    is_all = len(trained) == len(names)
    return Intent(
        trainable=("*",) if is_all else tuple(name for name, parameter in names.items() if id(parameter) in trained),
        unused_ok=config.unused_ok, loss=_reference(config), label_smoothing=config.label_smoothing, freeze_strict=True,
    )


def _reference(config: TrainConfig) -> str | None:
    """Under which name the loss is known elsewhere. Our others, and our mean of weighted ones, are not torch's of that name."""
    return "cross_entropy" if config.loss == "cross_entropy" and config.balance != "weighted" else None


def sample(records: Sequence[Record], *, seed: int) -> list[Record]:
    """A share of each label, the same of all, two at least where there are two."""
    if len(records) <= SAMPLE:
        return list(records)
    counts = Counter(record.label for record in records)
    shares = {label: max(2, round(number * SAMPLE / len(records))) for label, number in counts.items()}
    drawn = {
        record.sha256 for label, share in shares.items()
        for record in balance.draw([one for one in records if one.label == label], min(share, counts[label]), seed=seed)
    }
    return [record for record in records if record.sha256 in drawn]


def _rule(records: Iterable[Record], names: Sequence[str], by_path: Mapping[Path, Record]) -> Callable[[Path], Sequence[str]]:
    """Where the labels stand: in the words of every file's name, or in every file's folder; else only the record says it."""
    everything = list(records)
    rules: list[Callable[[Record], Sequence[str]]] = [
        lambda record: labels.labels_in(record.name, names),
        lambda record: [name for name in names if name in Path(record.name).parts[:-1]],
    ]
    for rule in rules:
        if all(list(rule(record)) == [record.label] for record in everything):
            return lambda path: rule(by_path[path])
    return lambda path: [by_path[path].label]
