"""Task, Turns, Lap, CONTENDERS: who trains the same network on the same pictures, each as its own documentation shows it.

    ours        catdog.run, from the config to the loop
    pytorch     PyTorch's tutorial "Transfer Learning for Computer Vision", pictures read as torchvision's documentation begins with
    lightning   Lightning's page "Transfer Learning": a LightningModule in a Trainer
    fastai      fastai's DataBlock and Learner: freeze() and fit_one_cycle()

Each runs in a process of its own and waits at the beginning of every epoch until it is its turn. Peers take normalised float images
(N, 3, S, S) in torch's ordinary memory layout, as their users' networks do. All of them train with AdamW (fastai's own Adam is one), and
nobody but us keeps what a frozen backbone says of a picture.
"""

import logging
import multiprocessing
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from catdog import balance, catalogue, run
from catdog.config import TrainConfig
from catdog.datasets import Dataset
from catdog.models import build
from catdog.settings import Settings
from tests.bench.loading import Folder, tensor

FOREVER = 1000
"""Epochs that are asked for; the bench ends them."""


@dataclass(frozen=True, slots=True)
class Task:
    """What all contenders do."""

    name: str
    config: TrainConfig
    settings: Settings
    bf16: bool
    """Multiply in bfloat16 (autocast); else float32 throughout."""
    threads: int

    @property
    def frozen(self) -> bool:
        return self.config.trainable == "head"

    @property
    def device(self) -> str:
        return self.config.device

    @property
    def normalisation(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        weights = catalogue.NETWORKS[self.config.model].weights if self.config.weights == "imagenet" else None
        return (weights.mean, weights.std) if weights else ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

    def dataset(self) -> Dataset:
        return Dataset.open(self.settings.datasets / self.config.dataset)

    def files(self, split: str) -> list[tuple[Path, int]]:
        """The pictures that a run with this config uses."""
        dataset = self.dataset()
        records = balance.select(dataset.records, dataset.labels, self.config)[split]
        return [(dataset.path(record), dataset.target(record)) for record in records]

    def network(self) -> tuple[nn.Module, nn.Module]:
        """Backbone and head, with the weights that a run would start from."""
        torch.manual_seed(self.config.seed)
        classifier = build(
            self.config.model, labels=self.dataset().labels, weights=self.config.weights, image_size=self.config.image_size,
            weights_folder=self.settings.weights,
        )
        return classifier.backbone, classifier.head

    def loader(self, split: str, workers: int) -> DataLoader[tuple[torch.Tensor, int]]:
        """What torchvision's documentation gives: a random crop and flip to train all of a network, else the middle of the picture."""
        side = self.config.image_size
        if split == "train" and not self.frozen:
            view: list[nn.Module] = [v2.RandomResizedCrop(size=(side, side), antialias=True), v2.RandomHorizontalFlip(p=0.5)]
        else:
            view = [v2.Resize(size=round(side * 256 / 224), antialias=True), v2.CenterCrop(size=(side, side))]
        mean, std = self.normalisation
        transform = v2.Compose([*view, v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean=mean, std=std)])
        return DataLoader(
            Folder(self.files(split), tensor, transform), batch_size=self.config.batch_size, shuffle=split == "train",
            num_workers=workers, persistent_workers=workers > 0, pin_memory=self.device == "cuda",
        )


@dataclass(frozen=True, slots=True)
class Lap:
    """Seconds of one epoch."""

    once: float
    """Before the first epoch: what is computed or decoded once, workers started, a sanity check; 0 in later epochs."""
    training: float
    """From asking for the first batch to the last update."""
    validation: float
    rest: float
    """Until the next epoch could begin: checkpoints, logs."""


class Finished(Exception):
    """The bench has seen enough."""


class Turns:
    """A contender's end of the line to the bench: it waits for its turn, and says how long each epoch took."""

    def __init__(self, line: Connection) -> None:
        self._line, self._marks = line, list[float]()

    def ready(self) -> None:
        """Network and loaders are built; nothing has run yet. Waits."""
        self._wait("ready")

    def begin(self) -> None:
        """An epoch begins, and whatever belonged to the one before has ended. Waits, but for the first."""
        if len(self._marks) > 1:
            once, *parts = (after - before for before, after in zip(self._marks, [*self._marks[1:], _now()], strict=True))
            self._wait(Lap(once, *parts))
        self._marks.append(_now())

    def mark(self) -> None:
        """First: all updates of the epoch are done. Then: its validation is."""
        self._marks.append(_now())

    def _wait(self, said: object) -> None:
        try:
            self._line.send(said)
            is_next = self._line.recv()
        except (EOFError, BrokenPipeError):
            is_next = False
        if not is_next:
            raise Finished
        self._marks = [_now()]


def _now() -> float:
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
    return time.perf_counter()


def ours(task: Task, _workers: int, turns: Turns) -> None:
    """A run as the worker does it; the phase `features` is what is done once."""
    folder = task.settings.data_dir / "runs" / task.name.replace(" ", "_")
    task.config.write(folder)
    updated, validated = 0, False
    for step in run.run(folder, task.settings):
        if step.kind == "phase" and step.phase == "features":
            turns.ready()
        elif step.kind == "phase" and step.phase == "training":
            turns.begin()
        elif step.kind == "step" and step.phase == "training":
            # Its last update; the steps that follow in this epoch are signs of life of the validation.
            if step.step and step.steps and step.step > updated and step.step % (step.steps // FOREVER) == 0:
                updated = step.step
                turns.mark()
        elif step.kind == "epoch":
            validated = True
            turns.mark()
        elif step.kind == "checkpoint" and validated:
            validated = False
            turns.begin()


def pytorch(task: Task, workers: int, turns: Turns) -> None:
    """The tutorial's train_model: two phases an epoch, losses and hits summed."""
    backbone, head = task.network()
    model = nn.Sequential(backbone, head).to(task.device)
    if task.frozen:
        for parameter in backbone.parameters():
            parameter.requires_grad = False
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(head.parameters() if task.frozen else model.parameters(), lr=task.config.learning_rate)
    loaders = {phase: task.loader(phase, workers) for phase in ("train", "val")}
    turns.ready()
    for _epoch in range(FOREVER):
        turns.begin()
        for phase, loader in loaders.items():
            training = phase == "train"
            model.train(training)
            running_loss, running_corrects = 0.0, torch.zeros((), dtype=torch.int64)
            for images, target in loader:
                inputs, labels = images.to(task.device), target.to(task.device)
                optimizer.zero_grad()
                with torch.set_grad_enabled(training):
                    with torch.autocast(task.device, torch.bfloat16, enabled=task.bf16):
                        outputs = model(inputs)
                        loss = criterion(outputs, labels)
                    if training:
                        loss.backward()
                        optimizer.step()
                running_loss += loss.item() * inputs.size(0)
                running_corrects += torch.sum(outputs.argmax(1) == labels).cpu()
            turns.mark()


def lightning(task: Task, workers: int, turns: Turns) -> None:
    """The page's module: a frozen feature extractor in evaluation mode under no_grad, or all of it trained; the Trainer's defaults."""
    import lightning as pl
    from lightning.pytorch.callbacks import LambdaCallback
    from torch.nn import functional as F

    class Module(pl.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.feature_extractor, self.classifier = task.network()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if task.frozen:
                self.feature_extractor.eval()
                with torch.no_grad():
                    representations = self.feature_extractor(x)
            else:
                representations = self.feature_extractor(x)
            logits: torch.Tensor = self.classifier(representations)
            return logits

        def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
            loss = F.cross_entropy(self(batch[0]), batch[1])
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch: list[torch.Tensor]) -> None:
            logits = self(batch[0])
            self.log("val_loss", F.cross_entropy(logits, batch[1]))
            self.log("val_acc", (logits.argmax(1) == batch[1]).float().mean())

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=task.config.learning_rate)

    def mark(trainer: Any, _module: Any) -> None:
        if not trainer.sanity_checking:
            turns.mark()

    clock = LambdaCallback(on_train_epoch_start=lambda *_: turns.begin(), on_validation_start=mark, on_validation_end=mark)
    trainer = pl.Trainer(
        accelerator="gpu" if task.device == "cuda" else "cpu", devices=1, max_epochs=FOREVER, callbacks=[clock],
        precision="bf16-mixed" if task.bf16 else "32-true", enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=task.settings.data_dir / "lightning",
    )
    module, loaders = Module(), [task.loader(phase, workers) for phase in ("train", "val")]
    turns.ready()
    trainer.fit(module, *loaders)


def fastai(task: Task, workers: int, turns: Turns) -> None:
    """A DataBlock and a Learner whose last parameter group is the head. Frozen batch normalisation stays frozen: train_bn=True, the
    default, would go back through the whole backbone for it."""
    from fastai.callback.core import Callback
    from fastai.callback.schedule import Learner
    from fastai.data.block import CategoryBlock, DataBlock
    from fastai.data.transforms import IndexSplitter, ItemGetter
    from fastai.losses import CrossEntropyLossFlat
    from fastai.metrics import accuracy
    from fastai.torch_core import params
    from fastai.vision.augment import FlipItem, Normalize, RandomResizedCrop, Resize
    from fastai.vision.data import ImageBlock

    class Clock(Callback):  # type: ignore[misc]
        def before_epoch(self) -> None:
            turns.begin()

        def after_train(self) -> None:
            turns.mark()

        def after_validate(self) -> None:
            turns.mark()

    def groups(model: nn.Sequential) -> list[Any]:
        return [params(model[0]), params(model[1])]

    train, val = task.files("train"), task.files("val")
    side = task.config.image_size
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock), get_x=ItemGetter(0), get_y=ItemGetter(1),
        splitter=IndexSplitter(list(range(len(train), len(train) + len(val)))),
        item_tfms=[Resize(side)] if task.frozen else [RandomResizedCrop(side), FlipItem()],
        batch_tfms=[Normalize.from_stats(*task.normalisation, cuda=task.device == "cuda")],
    )
    loaders = block.dataloaders(
        train + val, bs=task.config.batch_size, num_workers=workers, device=torch.device(task.device),
    )
    learner = Learner(
        loaders, nn.Sequential(*task.network()).to(task.device), loss_func=CrossEntropyLossFlat(), splitter=groups, metrics=accuracy,
        cbs=[Clock()], path=task.settings.data_dir / "fastai", train_bn=not task.frozen,
    )
    if task.frozen:
        learner.freeze()
    if task.bf16:
        learner.to_bf16()
    turns.ready()
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(FOREVER, task.config.learning_rate)


CONTENDERS: dict[str, Callable[[Task, int, Turns], None]] = {"catdog": ours, "PyTorch": pytorch, "Lightning": lightning, "fastai": fastai}


def contend(name: str, task: Task, workers: int, line: Connection) -> None:
    """A contender's process: says `ready`, then a Lap for each turn it is given; on failure a sentence."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    multiprocessing.set_start_method("fork", force=True)  # as in their users' programs: a spawned worker imports everything anew
    torch.set_num_threads(task.threads)
    try:
        CONTENDERS[name](task, workers, Turns(line))
    except Finished:
        pass
    except Exception as error:  # noqa: BLE001 - whatever ails a contender, the bench says it and ends
        line.send(f"{name}: {type(error).__name__}: {error}")
