"""packaging: the last phase of a run, from the trained network to a package that is quick, calibrated, and says when it does not know.

    trained network --> float32.onnx --> int8.onnx, and which of them is served     chosen on val
                    its answers to val, test and the bank's pictures                 one safetensors file each
                    temperature, thresholds, bank, metrics, golden logits            all of the graph that is served

What takes long lies in the folder packaging/ of the run, each file renamed into place, until the package is whole: a new attempt goes on.
"""

import json
import shutil
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from catdog import balance, calibration, catalogue, export, loaders, losses, plots, quantisation
from catdog.calibration import Bank, Calibration
from catdog.datasets import Record
from catdog.doctor import gate
from catdog.errors import Unhealthy
from catdog.files import sha256_of, write_atomically
from catdog.loaders import Pictures
from catdog.metrics import Answers, Measures
from catdog.progress import Progress
from catdog.quantisation import Choice

if TYPE_CHECKING:
    from catdog.run import Prepared

_GPU_SERVES_FLOATS = "the run computes on a GPU, which answers quicker in float32"


@dataclass(frozen=True, slots=True)
class Answered:
    """What the served graph answers to a split: N pictures, C labels, F features."""

    logits: NDArray[np.float32]
    """(N, C)."""
    features: NDArray[np.float32]
    """(N, F)."""
    target: NDArray[np.int64]
    """(N,)."""

    @classmethod
    def read(cls, path: Path) -> "Answered":
        """What loaders.compute_features wrote, of one view."""
        kept = load_file(path)
        return cls(kept["logits"][0], kept["features"][0], kept["targets"])


def packaging(prepared: "Prepared") -> Generator[Progress, None, str]:
    """The phase `packaging`: write the model package and return its digest.

    Raises:
        ExportMismatch, Unhealthy: it does not answer as the trained network does.
    """
    folder, work = prepared.folder, prepared.folder / "packaging"
    if (folder / "package").exists():  # renamed into place last, so it is whole
        return sha256_of(folder / "package" / "package.json")
    work.mkdir(exist_ok=True)
    golden = _golden(prepared)
    exact = _exported(prepared, golden)
    choice = yield from _chosen(prepared, exact)
    served = work / f"{choice.served}.onnx"
    records = {
        "bank": balance.draw(prepared.records["train"], calibration.MAX_ROWS, seed=prepared.config.seed),
        "val": prepared.records["val"], "test": prepared.records["test"],
    }
    answers = {}
    for name, its in records.items():
        answers[name] = yield from _answers(prepared, name, its, served)
    bank = Bank.of(answers["bank"].features)
    val = answers["val"]
    fitted = Calibration.fit(val.logits, val.target, val.features, bank, precision=prepared.config.target_precision)
    facts = _facts(prepared) | fitted.to_dict() | {"quantisation": choice.to_dict()} | _measured(prepared, answers, bank, fitted)
    if facts["abstained"]["val"]["unsure"] > 0.5:
        yield Progress("warning", phase="packaging", message=(
            f"The model abstains from most pictures: on val no confidence that many reach gives {prepared.config.target_precision:.0%} "
            "right answers. Train a better one, or lower target_precision."
        ))
    said: list[Progress] = []
    try:
        digest = export.package(
            folder / "package", classifier=prepared.classifier, graph=served, bank=bank, facts=facts,
            golden=[prepared.dataset.path(record) for record in golden],
            seen=[record.sha256 for split in ("train", "val") for record in prepared.records[split]],
            plots=sorted((folder / "artifacts").glob("*.svg")),
            examined=lambda predictor: gate.packaged(prepared, predictor, exact, said),
        )
    except Unhealthy:
        yield from said
        raise
    yield from said
    shutil.rmtree(work)
    return digest


def _golden(prepared: "Prepared") -> list[Record]:
    """Alternately from each label, so that a package's golden pictures show every answer."""
    by_label = [[record for record in prepared.records["val"] if record.label == label] for label in prepared.dataset.labels]
    turns = [records[turn] for turn in range(export.GOLDEN_PICTURES) for records in by_label if turn < len(records)]
    return turns[: export.GOLDEN_PICTURES]


def _exported(prepared: "Prepared", golden: Sequence[Record]) -> Path:
    """The network as it was trained, as a graph that has been found to answer so."""
    graph = prepared.folder / "packaging" / "float32.onnx"
    if not graph.exists():
        if prepared.frozen:
            export.with_head(prepared.folder / "features" / "backbone.onnx", prepared.classifier.head, graph)
        else:
            export.to_onnx(prepared.classifier, graph, image_size=prepared.config.image_size)
    export.check(graph, prepared.classifier, _pixels(prepared, golden))
    return graph


def _chosen(prepared: "Prepared", exact: Path) -> Generator[Progress, None, Choice]:
    """Make the graph in 8 bits and decide which one is served; a later attempt reads what was decided."""
    work, config = exact.parent, prepared.config
    decided = work / "choice.json"
    if decided.exists():
        return Choice(**json.loads(decided.read_text()))
    if config.quantise == "never":
        return Choice("float32", "quantise=never")
    if prepared.device.is_gpu:
        return Choice("float32", _GPU_SERVES_FLOATS)
    if (reason := quantisation.obstacle(exact)) is not None:
        return Choice("float32", reason)
    rounded, val = work / "int8.onnx", prepared.records["val"]
    try:
        drawn = balance.draw(prepared.records["train"], quantisation.PICTURES, seed=config.seed)
        if not rounded.exists():  # an earlier attempt's may have been answered by already
            quantisation.quantise(exact, _pixels(prepared, drawn), rounded)
        taken = quantisation.milliseconds([exact, rounded], _pixels(prepared, val[: quantisation.ROUNDS]))
    except (OSError, MemoryError):  # the run's own trouble, which a new attempt may be spared
        raise
    except Exception as error:  # noqa: BLE001 - a graph that the quantiser cannot do is served as it is
        yield Progress("warning", phase="packaging", message=f"This network stays in float32: {type(error).__name__}: {error}"[:1000])
        return Choice("float32", f"8 bits are not possible: {type(error).__name__}")
    before = yield from _answers(prepared, "val", val, exact)
    after = yield from _answers(prepared, "val", val, rounded)
    choice = quantisation.choose(before.logits, after.logits, before.target, milliseconds=taken)
    with write_atomically(decided) as unfinished:
        unfinished.write_text(json.dumps(choice.to_dict()))
    return choice


def _answers(prepared: "Prepared", name: str, records: Sequence[Record], graph: Path) -> Generator[Progress, None, Answered]:
    """What a graph answers to pictures, computed now or by an earlier attempt."""
    prepared.guard.admit(name)
    path = graph.with_name(f"{name}-{graph.stem}.safetensors")
    if not path.exists():
        yield from loaders.compute_features(
            Pictures(prepared.dataset, records, prepared.preprocess), graph=graph, path=path, threads=prepared.device.threads,
            phase="packaging", device=prepared.device.name, outputs=("logits", "features"),
        )
    return Answered.read(path)


def _pixels(prepared: "Prepared", records: Sequence[Record]) -> NDArray[np.uint8]:
    """(N, S, S, 3), as they will be served."""
    pictures = Pictures(prepared.dataset, records, prepared.preprocess)
    return np.stack([pictures.decode(place) for place in range(len(records))])


def _measured(prepared: "Prepared", answers: dict[str, Answered], bank: Bank, fitted: Calibration) -> dict[str, Any]:
    """Measures of what will be served; confidences as they will be, beside what they were before the temperature."""
    loss = losses.build(prepared.config.loss, labels=len(prepared.dataset.labels))
    metrics, calibrated, abstained = {}, {}, {}
    for split in ("val", "test"):
        its = answers[split]
        logits, target = torch.from_numpy(its.logits), torch.from_numpy(its.target)
        each = loss(logits, target).double()
        before = Measures.of(Answers(each, logits, target))
        after = Measures.of(Answers(each, logits.double() / fitted.temperature, target))
        metrics[split] = after.to_dict(prepared.dataset.labels)
        calibrated[split] = {when: {"ece": one.ece, "brier": one.brier} for when, one in (("before", before), ("after", after))}
        confidence = calibration.softmax(its.logits, fitted.temperature).max(axis=1)
        reasons = fitted.reasons(confidence, bank.distances(its.features))
        abstained[split] = {reason: reasons.count(reason) / len(reasons) for reason in calibration.REASONS}
    # Of test, which the temperature was not fitted on.
    picture = plots.reliability(after.bins, ece=after.ece, before=before.bins)
    (prepared.folder / "artifacts" / "reliability.svg").write_text(picture)
    return {"metrics": metrics, "calibration": calibrated, "abstained": abstained}


def _facts(prepared: "Prepared") -> dict[str, Any]:
    """What a package says of its run."""
    config = prepared.config
    trained = json.loads((prepared.folder / "metrics.json").read_text())
    return {
        "labels": list(prepared.dataset.labels), "preprocess": prepared.preprocess.to_dict(), "pictures": prepared.pictures,
        "best_epoch": trained["best_epoch"], "stop_reason": trained["stop_reason"], "config": config.model_dump(mode="json"),
        "fingerprint": prepared.dataset.fingerprint, "seed": config.seed, "device": prepared.device.to_dict(),
        "licence": catalogue.licence(config.model, config.weights),
    }
