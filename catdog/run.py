"""run, Stop: the phases of one run, from its config to a model package.

    preparing   config, device, data set, network           -> nothing on disk: quick to do again
    examining   the doctor looks at network, loop and data   -> doctor.json
    features    what is computed once for each picture: the  -> features/{backbone.onnx, train, val, test}.safetensors
                frozen backbone's features, or its decoding     the decode cache, which other runs share
    training    the loop                                     -> checkpoints/
    testing     the test split, once, on the best epoch      -> metrics.json, artifacts/*.svg
    packaging   export, 8 bits, calibration, parity, card    -> package/
    comparing   package and champion answer the test split:  quick to do again, as the champion may be another one
                is there a champion to replace?

A phase whose product is on disk is skipped, so that a new attempt goes on where the last one died. The worker, the
command line and the tests all call `run`; it knows nothing of job record, queue or service.
"""

import copy
import errno
import json
import random
import shutil
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from catdog import (
    balance,
    catalogue,
    checkpoints,
    contest,
    device,
    epochs,
    export,
    inheritance,
    loaders,
    loop,
    losses,
    optimizers,
    plots,
    ranks,
    tracking,
)
from catdog.cache import Cache
from catdog.config import BATCH_SIZE, TrainConfig
from catdog.datasets import Dataset, Record
from catdog.device import Device
from catdog.doctor import gate
from catdog.doctor.findings import Report
from catdog.doctor.training import selection
from catdog.doctor.training.guards import Guards
from catdog.errors import FAILURES, BadConfig, BadInput, CatdogError, CorruptPackage, DatasetChanged, NotFound, Unavailable
from catdog.files import sha256_of, write_atomically
from catdog.guard import Guard
from catdog.images import Preprocess
from catdog.inference import Predictor
from catdog.loaders import Pictures, Split, Splits
from catdog.metrics import Measures
from catdog.models import Classifier, build
from catdog.packaging import packaging
from catdog.progress import Progress, fits
from catdog.ranks import ALONE, Ranks
from catdog.settings import Settings
from catdog.splits import SPLITS
from catdog.state import State

HEAVY = 10_000_000
"""Parameters."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the phase `preparing` found and made."""

    folder: Path
    config: TrainConfig
    device: Device
    dataset: Dataset
    records: dict[str, list[Record]]
    """The pictures of each split that this run uses; `train_eval` are those of train that are measured after each epoch."""
    preprocess: Preprocess
    classifier: Classifier
    cache: Cache
    guard: Guard

    @property
    def frozen(self) -> bool:
        """Whether nothing before the features is trained: then they are computed once."""
        return not any(parameter.requires_grad for parameter in self.classifier.backbone.parameters())

    @property
    def is_heavy(self) -> bool:
        """Whether a pass of a small picture takes more than milliseconds."""
        return sum(parameter.numel() for parameter in self.classifier.parameters()) > HEAVY

    @property
    def network(self) -> nn.Module:
        """What the loop trains: the head on features, or the whole classifier on pixels."""
        return self.classifier.head if self.frozen else self.classifier

    @property
    def pictures(self) -> dict[str, Any]:
        """How many there are of each split and label, and what the balance makes of them."""
        splits = {name: self.records[name] for name in SPLITS}
        return balance.facts(splits, self.dataset.labels, self.config)

    def enter(self, phase: str) -> Progress:
        """Begin a phase."""
        self.guard.enter(phase)
        return Progress("phase", phase=phase)

    def split(self, name: str) -> Split:
        """A split as what `network` takes. The guard sees every batch of it."""
        if self.frozen:
            kept = self.kept(name)
            split = loaders.features(self.folder / "features" / f"{kept}.safetensors", [record.name for record in self.records[kept]])
            if kept != name:
                places = {record.sha256: place for place, record in enumerate(self.records[kept])}
                split = split.part([places[record.sha256] for record in self.records[name]])
        else:
            split = loaders.pixels(self.seen(name), threads=self.device.threads, cache=self.cache)
        return self.guard.watch(name, split)

    def seen(self, name: str) -> Pictures:
        """The pictures of a split as the network sees them; only those that are trained on are varied."""
        augment = self.config.augment if name == "train" else "none"
        return Pictures(self.dataset, self.records[name], self.preprocess, augment, self.config.seed)

    def kept(self, name: str) -> str:
        """The split under whose name the features of a split are kept: where train is not varied, its measured part is among it."""
        return "train" if name == "train_eval" and self.config.augment == "none" else name

    def introduced(self) -> Progress:
        """What a run says of itself before it begins: where it computes, with which pictures."""
        return Progress("phase", phase="preparing", result={"device": self.device.to_dict(), "pictures": self.shown})

    @property
    def shown(self) -> dict[str, Any]:
        """`pictures`, as far as they fit into a line."""
        return self.pictures if fits(self.pictures) else {name: self.pictures[name] for name in ("balance", "images")}

    @property
    def while_training(self) -> list[str]:
        """The splits that the phase `training` looks at."""
        return [name for name in ("train", "val", "train_eval") if self.records[name]]


def run(
    folder: Path, settings: Settings, *, fence: int = 0, resume_from: Path | None = None, champion: Path | None = None,
) -> Generator[Progress]:
    """Work through the phases of the run folder, yielding Progress; the last one is `done` with the metrics.

    Closing the generator in the phase `training` leaves a checkpoint. `resume_from` is the folder of the run that a new one goes on from,
    `champion` the package that its own shall replace if it is no worse.

    Raises:
        BadConfig, WeightsUnavailable: the config cannot work on this machine, or not with this data set.
        NoDevice: this machine demands a GPU and has none.
        DatasetChanged, NonFiniteLoss, ExportMismatch, CorruptCheckpoint: see errors.py.
    """
    phases = _phases(folder, settings, fence=fence, resume_from=resume_from, champion=champion)
    yield from tracking.tracked(phases, folder)


def _phases(
    folder: Path, settings: Settings, *, fence: int, resume_from: Path | None, champion: Path | None,
) -> Generator[Progress]:
    yield Progress("phase", phase="preparing")
    for left in list(folder.rglob("*.tmp-*")):  # of an attempt that was killed; not for ranks, each of which would take what another writes
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    prepared = prepare(folder, settings)
    if resume_from is not None:
        inheritance.take(resume_from, folder, prepared.config, fingerprint=prepared.dataset.fingerprint)
    yield prepared.introduced()
    yield prepared.enter("examining")
    yield from gate.examining(prepared)
    yield prepared.enter("features")
    yield from features(prepared)
    yield prepared.enter("training")
    yield from training(prepared, fence=fence)
    yield prepared.enter("testing")
    yield from testing(prepared)
    yield prepared.enter("packaging")
    digest = yield from packaging(prepared)
    package = json.loads((folder / "package" / "package.json").read_text())
    metrics = {name: package[name] for name in ("best_epoch", "stop_reason")} | package["metrics"]
    compared = {} if champion is None else (yield from comparing(prepared, champion, settings))
    if not fits(metrics):  # the package has them all
        for split in ("val", "test"):
            metrics[split] = {name: value for name, value in metrics[split].items() if name not in ("by_label", "confusion")}
    artifacts = sorted(path.name for path in (folder / "artifacts").glob("*.svg"))
    yield Progress("done", phase="packaging" if champion is None else "comparing", result={
        "digest": digest, "labels": list(prepared.dataset.labels), "metrics": metrics, "stop_reason": metrics["stop_reason"],
        "artifacts": artifacts, "doctor": gate.summary(Report.read(folder) or Report()), **compared,
    })


def prepare(folder: Path, settings: Settings) -> Prepared:
    """Read the config, open the data set, choose the device, build the network: everything that can be refused early."""
    config = TrainConfig.read(folder)
    try:
        dataset = Dataset.open(settings.datasets / config.dataset)
    except NotFound as error:
        raise DatasetChanged(f"Expected the data set {config.dataset}. Received: none of that id.") from error
    _check_fingerprint(folder, dataset)
    records = balance.select(dataset.records, dataset.labels, config)
    measured = len(records["val"]) if config.n_train_eval is None else config.n_train_eval
    records["train_eval"] = balance.draw(records["train"], min(measured, len(records["train"])), seed=config.seed)
    chosen = device.choose(config.device, settings)
    random.seed(config.seed)
    np.random.seed(config.seed)
    torch.manual_seed(config.seed)
    classifier = build(
        config.model, labels=dataset.labels, weights=config.weights, image_size=config.image_size, weights_folder=settings.weights,
    )
    optimizers.freeze(classifier, config.trainable)
    _check_trainable(classifier, config)
    if 1 in (config.batch_size, config.micro_batch):
        _check_single_image(classifier, config.image_size)
    preprocess = Preprocess(config.image_size, **catalogue.preprocess(config.model, config.weights), geometry=config.geometry)
    cache = Cache(settings.cache, settings.cache_bytes)
    return Prepared(folder, config, chosen, dataset, records, preprocess, classifier, cache, Guard())


def _check_trainable(classifier: Classifier, config: TrainConfig) -> None:
    """Patterns are known to name a part of the network only when there is one."""
    trained = {name for name, parameter in classifier.named_parameters() if parameter.requires_grad}
    heads = {name for name in trained if optimizers.is_head(name)}
    if trained == heads and config.trainable != "head":
        raise BadConfig(
            f"Expected patterns that name more than the head. Received: trainable={', '.join(config.trainable)}.", field="trainable",
            remedy="Set trainable to head: what a frozen backbone makes of a picture is then computed once.",
        )
    if config.head_epochs and not heads:
        raise BadConfig(
            f"head_epochs={config.head_epochs} needs a head that is trained. Received: trainable={', '.join(config.trainable)}.",
            field="head_epochs", remedy="Set head_epochs to 0, or add head.* to trainable.",
        )


def _check_single_image(classifier: Classifier, image_size: int) -> None:
    """Batch normalisation over one picture's 1 x 1 map has nothing to normalise by; tried on a copy."""
    try:
        tried = copy.deepcopy(classifier)
        optimizers.set_training(tried)
        tried(torch.zeros((1, image_size, image_size, 3), dtype=torch.uint8))
    except ValueError as error:
        raise BadConfig(
            f"batch_size: expected at least 2 images at once for this network at this size. Received: 1 ({error}).", field="batch_size",
        ) from error


def _check_fingerprint(folder: Path, dataset: Dataset) -> None:
    """The first attempt notes what data set it saw; a later one that sees another must not go on from its products."""
    path = folder / "dataset.json"
    if not path.exists():
        with write_atomically(path) as unfinished:
            unfinished.write_text(json.dumps({"id": dataset.id, "fingerprint": dataset.fingerprint}))
    seen = json.loads(path.read_text())["fingerprint"]
    if seen != dataset.fingerprint:
        raise DatasetChanged(f"Expected a data set with the fingerprint {seen[:16]}. Received: {dataset.fingerprint[:16]}.")


def features(prepared: Prepared) -> Iterator[Progress]:
    """The phase `features`: of train and val everything that no epoch needs to compute again."""
    if prepared.frozen:
        if lack := device.lack_of_sessions(prepared.device):
            yield Progress("warning", phase="features", message=lack)
        yield from compute_features(prepared, *dict.fromkeys(map(prepared.kept, prepared.while_training)), phase="features")
    elif not (prepared.folder / "metrics.json").exists():  # else no epoch is to come
        try:
            for split in prepared.while_training:
                yield from fill_cache(prepared, split)
        except Unavailable as error:
            yield Progress("warning", phase="features", message=f"{error.message} Every epoch decodes its pictures anew.")


def compute_features(prepared: Prepared, *splits: str, phase: str) -> Iterator[Progress]:
    """Export the frozen backbone, unless an earlier attempt has, and run it once over each split."""
    for split in splits:
        prepared.guard.admit(split)
    folder = prepared.folder / "features"
    folder.mkdir(exist_ok=True)
    graph = folder / "backbone.onnx"
    if not graph.exists():
        export.to_onnx(prepared.classifier, graph, image_size=prepared.config.image_size)
    for split in splits:
        path = folder / f"{split}.safetensors"
        if not path.exists():
            yield from loaders.compute_features(
                prepared.seen(split), graph=graph, path=path, threads=prepared.device.threads, phase=phase, device=prepared.device.name,
                views=prepared.config.views if split == "train" else 1,
            )


def fill_cache(prepared: Prepared, split: str) -> Iterator[Progress]:
    """Decode a split into the cache, unless it is there."""
    prepared.guard.admit(split)
    yield from loaders.fill(prepared.seen(split), cache=prepared.cache, threads=prepared.device.threads, phase="features")


def training(prepared: Prepared, *, fence: int) -> Iterator[Progress]:
    """The phase `training`: the loop, here or in several processes; each epoch's line goes to metrics.jsonl too."""
    newest = checkpoints.latest(prepared.folder / "checkpoints", fence=-1)  # only looks
    if newest is not None and State.from_dict(newest.state).stop_reason(prepared.config) is not None:
        return  # an earlier attempt has come to its end
    if prepared.config.devices == 1:
        steps = train_as(ALONE, prepared, fence=fence)
    else:
        steps = ranks.spread(["-m", "catdog", "rank", str(prepared.folder), "--fence", str(fence)], size=prepared.config.devices)
    with closing(steps):
        yield from steps


def train_as(ranks: Ranks, prepared: Prepared, *, fence: int) -> Generator[Progress]:
    """The loop, as one of the ranks that share it; the first writes each epoch's line to metrics.jsonl, and is guarded.

    Raises:
        Unhealthy: a guard found what is certainly wrong, and the config says gate.
    """
    guards = _guards(prepared, ranks)
    steps = loop.train(
        prepared.network, Splits(*map(prepared.split, prepared.while_training)), prepared.config, labels=len(prepared.dataset.labels),
        device=prepared.device.name, folder=prepared.folder / "checkpoints", fence=fence, ranks=ranks,
    )
    with closing(steps):
        for step in steps:
            if step.kind == "epoch" and ranks.is_first:
                with (prepared.folder / "metrics.jsonl").open("a") as history:
                    history.write(step.to_json() + "\n")
            yield step
            if guards is not None and (found := list(guards.of(step))):
                yield from gate.verdict(found, prepared, phase="training")


def _guards(prepared: Prepared, ranks: Ranks) -> Guards | None:
    """What looks on while the first rank trains."""
    if prepared.config.doctor == "off" or not ranks.is_first:
        return None
    return Guards(
        prepared.network, prepared.config, prepared.guard.attendance,
        declared={name: _drawn_of(prepared.records[name], name, ranks) for name in prepared.while_training},
        is_resumed=(prepared.folder / "checkpoints").exists(), labels=prepared.dataset.labels,
    )


def _drawn_of(records: Sequence[Record], split: str, ranks: Ranks) -> int:
    """How many pictures of a split an epoch of the first rank draws; one that is smaller than there are ranks each measures alone."""
    return len(records) if split != "train" and len(records) < ranks.size else len(ranks.shard(records))


def testing(prepared: Prepared) -> Iterator[Progress]:
    """The phase `testing`: load the best epoch, evaluate val again and test for the first and only time."""
    state, best = loop.outcome(prepared.folder / "checkpoints")
    prepared.network.to(prepared.device.name).load_state_dict(best.weights())
    path = prepared.folder / "metrics.json"
    if path.exists():
        return
    if prepared.frozen:
        yield from compute_features(prepared, "test", phase="testing")
    config = prepared.config
    loss = losses.build(config.loss, labels=len(prepared.dataset.labels))
    metrics = {}
    for split in ("val", "test"):
        answers = yield from loop.evaluate(
            prepared.network, prepared.split(split), loss=loss, device=prepared.device.name, batch_size=config.batch_size or BATCH_SIZE,
        )
        measures = Measures.of(answers)
        metrics[split] = measures.to_dict(prepared.dataset.labels)
        if split == "val":
            yield from _repeated(prepared, measures, best_epoch=state.best_epoch)
    facts = {"best_epoch": state.best_epoch, "stop_reason": state.stop_reason(config)}
    draw(prepared, metrics["test"])
    with write_atomically(path) as unfinished:
        unfinished.write_text(json.dumps({**facts, **metrics}, indent=2))


def _repeated(prepared: Prepared, measures: Measures, *, best_epoch: int) -> Iterator[Progress]:
    """Before the test split is looked at: are these weights what was measured?

    Raises:
        Unhealthy: they are not, and the config says gate.
    """
    if prepared.config.doctor == "off":
        return
    found = list(selection.repeats(epochs.read(prepared.folder), prepared.config, best_epoch=best_epoch, measured=measures))
    if found:
        yield from gate.verdict(found, prepared, phase="testing")
    else:
        gate.amend(prepared.folder, Report(passed=("T05",)))


def draw(prepared: Prepared, test: dict[str, Any]) -> None:
    """The pictures of what came of it, in artifacts/: people would rather look than read."""
    artifacts = prepared.folder / "artifacts"
    artifacts.mkdir(exist_ok=True)
    pictures = {"curves": plots.curves(epochs.read(prepared.folder))}
    if "confusion" in test:
        pictures["confusion"] = plots.confusion(test["confusion"], prepared.dataset.labels)
    for name, picture in pictures.items():
        (artifacts / f"{name}.svg").write_text(picture)


def comparing(prepared: Prepared, champion: Path, settings: Settings) -> Generator[Progress, None, dict[str, Any]]:
    """The phase `comparing`: what the done Progress says of this package against the champion's.

    Raises:
        CorruptPackage: this run's package does not answer any more as it was made to.
    """
    own = Predictor.load(prepared.folder / "package", device=settings.device)
    try:
        rival = Predictor.load(champion, device=settings.device)
        comparison = yield from contest.contest(own, rival, prepared.dataset)
    except CorruptPackage as error:  # which is no fault of this run
        yield Progress("warning", phase="comparing", message=f"No comparison with the champion: {error.message}", remedy=error.remedy)
        return {}
    return {"comparison": comparison.to_dict() | {"champion_digest": sha256_of(champion / "package.json")}}


def failure(error: BaseException) -> Progress:
    """The `failed` Progress that says what an exception of `run` means."""
    if isinstance(error, BadInput):
        code = error.code if error.code in FAILURES else "config"
        return Progress("failed", code=code, message=error.message, remedy=error.remedy)
    if isinstance(error, CatdogError):
        code = error.code if error.code in FAILURES else "internal"
        return Progress("failed", code=code, message=error.message, remedy=error.remedy)
    if isinstance(error, MemoryError) or device.is_out_of_memory(error):
        return _failed("out_of_memory", error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _failed("disk_full", error)
    if isinstance(error, torch.AcceleratorError):
        return _failed("device_error", error)
    return _failed("internal", error)


def _failed(code: str, error: BaseException) -> Progress:
    return Progress("failed", code=code, message=f"{type(error).__name__}: {error}"[:2000], remedy=FAILURES[code])
