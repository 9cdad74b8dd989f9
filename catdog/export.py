"""to_onnx, with_head, package: from a trained network to a model package (its layout: catdog/inference.py).

N images, S side, C labels, F features. The exported graph takes pixels (N, S, S, 3) uint8 and answers logits (N, C) and
features (N, F) float32; normalisation is inside. Nothing is packaged that does not answer as the trained network does.
"""

import hashlib
import json
import logging
import os
import platform
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import PIL
import torch
from onnx import numpy_helper
from safetensors.torch import save_file
from torch import Tensor, nn

from catdog import __version__
from catdog.errors import CorruptPackage, ExportMismatch
from catdog.files import sha256_of, share_as_folder, sync_folder, write_atomically
from catdog.images import Preprocess
from catdog.inference import FORMAT, TOLERANCE, Predictor
from catdog.models import Classifier

GOLDEN_PICTURES = 16


class _Answers(nn.Module):
    """Both outputs of a classifier, for the exporter."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        features = self.classifier.features(pixels)
        return self.classifier.head(features), features


def to_onnx(classifier: Classifier, path: Path, *, image_size: int) -> None:
    """Write the network as an ONNX graph for any number of images; it is put in evaluation mode and on the CPU."""
    answers = _Answers(classifier.eval().cpu())
    example = torch.zeros((2, image_size, image_size, 3), dtype=torch.uint8)
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the exporter deprecates parts of itself
            program = torch.onnx.export(
                answers, (example,), dynamo=True, verbose=False, input_names=["pixels"], output_names=["logits", "features"],
                dynamic_shapes=({0: torch.export.Dim("N", min=1, max=4096)},),
            )
    finally:
        exporter.setLevel(level)
    if program is None:
        raise ExportMismatch("Expected an ONNX graph. Received: nothing from torch.onnx.export.")
    with write_atomically(path) as unfinished:
        program.save(str(unfinished))


def with_head(graph: Path, head: nn.Module, path: Path) -> None:
    """Write the graph again with the parameters of another head: a frozen backbone is exported once, not twice."""
    model = onnx.load(str(graph))
    wanted = {f"classifier.head.{name}": parameter for name, parameter in head.named_parameters()}
    found = [initializer for initializer in model.graph.initializer if initializer.name in wanted]
    if len(found) != len(wanted):
        raise ExportMismatch(f"Expected {sorted(wanted)} in the graph. Received: {[initializer.name for initializer in found]}.")
    for initializer in found:
        value = wanted[initializer.name].detach().cpu().numpy()
        initializer.CopyFrom(numpy_helper.from_array(value, initializer.name))
    with write_atomically(path) as unfinished:
        onnx.save(model, str(unfinished))


def package(
    folder: Path, *, classifier: Classifier, graph: Path, golden: Sequence[Path], preprocess: Preprocess, facts: dict[str, Any],
    plots: Sequence[Path] = (), examined: Callable[[Predictor], Path | None] = lambda _: None,
) -> str:
    """Build the model package at `folder` and return its digest (sha256 of package.json).

    `golden` are pictures of the validation split; `facts` is what else package.json shall say (labels, metrics, pictures, config);
    `plots` are pictures of the training. `examined` looks at the package, as it will be served, before it is one; the report it returns
    goes into it.

    Raises:
        ExportMismatch: the graph's logits differ from the trained network's on the golden pictures.
        CorruptPackage: the package does not load.
    """
    unfinished = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    (unfinished / "golden").mkdir(parents=True)
    try:
        shutil.copyfile(graph, unfinished / "model.onnx")
        save_file({name: tensor.contiguous() for name, tensor in classifier.cpu().state_dict().items()}, unfinished / "weights.safetensors")
        share_as_folder(unfinished / "weights.safetensors")
        _write_golden(unfinished / "golden", golden, classifier, preprocess)
        _write_card(unfinished / "CARD.md", facts)
        (unfinished / "plots").mkdir()
        for plot in plots:
            shutil.copyfile(plot, unfinished / "plots" / plot.name)
        facts = facts | {
            "format": FORMAT, "preprocess": preprocess.to_dict(), "versions": versions(),
            "parity": {"golden_pictures": len(golden), "tolerance": TOLERANCE},
        }
        _write_manifest(unfinished, facts)
        report = examined(_checked(unfinished))
        if report is not None:
            shutil.copyfile(report, unfinished / report.name)
        text = _write_manifest(unfinished, facts)
        for path in unfinished.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        sync_folder(unfinished)
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return hashlib.sha256(text.encode()).hexdigest()


def versions() -> dict[str, str]:
    """What made the package."""
    return {
        "catdog": __version__, "python": platform.python_version(), "torch": str(torch.__version__), "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__, "pillow": PIL.__version__, "numpy": np.__version__,
    }


def _write_golden(folder: Path, pictures: Sequence[Path], classifier: Classifier, preprocess: Preprocess) -> None:
    """Copy the pictures and store what the trained network answers to them: logits.npy (N, C) float32."""
    pixels = []
    for number, picture in enumerate(pictures):
        data = picture.read_bytes()
        (folder / f"{number:02d}.image").write_bytes(data)
        pixels.append(preprocess.pixels_of(data))
    with torch.no_grad():
        logits = classifier.eval()(torch.from_numpy(np.stack(pixels)))
    np.save(folder / "logits.npy", logits.numpy())


def _write_manifest(folder: Path, facts: dict[str, Any]) -> str:
    """package.json: the facts, and the sha256 of every other file."""
    files = {str(path.relative_to(folder)): sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    files.pop("package.json", None)
    text = json.dumps(facts | {"files": files}, indent=2, allow_nan=False) + "\n"
    (folder / "package.json").write_text(text)
    return text


def _checked(folder: Path) -> Predictor:
    """A package that loads has repeated the trained network's golden logits through ONNX Runtime."""
    try:
        return Predictor.load(folder)
    except CorruptPackage as error:
        raise ExportMismatch(f"The exported network does not answer as the trained one. {error.message}") from error


def _write_card(path: Path, facts: dict[str, Any]) -> None:
    config, metrics, pictures = facts["config"], facts["metrics"], facts["pictures"]
    splits = "\n".join(
        f"| {split} | {values['images']} | {values['accuracy']:.4f} | {values['balanced_accuracy']:.4f} | {values['loss']:.4f} "
        f"| {_shown(values['auroc'])} | {values['ece']:.4f} | {values['brier']:.4f} |"
        for split, values in metrics.items()
    )
    path.write_text(
        f"# {config['model']}: {', '.join(facts['labels'])}\n\n"
        f"Answers photographs with one of {len(facts['labels'])} labels. "
        "It knows nothing else: a picture of neither still gets a label.\n\n"
        f"| split | images | accuracy | balanced accuracy | loss ({config['loss']}) | AUROC | calibration error | Brier score |\n"
        f"|---|---|---|---|---|---|---|---|\n{splits}\n\n"
        f"{_by_label(facts)}\n\n"
        "Precision is 0 where no picture got the label.\n\n"
        f"Trained on {pictures['images']['train']} pictures of data set {config['dataset']} "
        f"(fingerprint {facts['fingerprint'][:16]}), balance {config['balance']}, seed {config['seed']}, "
        f"on {facts['device']['name']} ({facts['device']['reason']}).\n"
        f"Started from {config['weights']} weights ({facts['licence']}); trained: {config['trainable']}.\n"
        "Calibrated: no. The confidence is the plain softmax.\n"
    )


def _shown(figure: float | None) -> str:
    return "" if figure is None else f"{figure:.4f}"


def _by_label(facts: dict[str, Any]) -> str:
    """A table with a row for each label and split; of train, which is not measured, only the pictures are counted."""
    rows = ["| label | split | images | precision | recall | F1 |", "|---|---|---|---|---|---|"]
    for label in facts["labels"]:
        name = label.replace("|", "\\|")
        rows.append(f"| {name} | train | {facts['pictures']['counts']['train'][label]} | | | |")
        for split, values in facts["metrics"].items():
            one = values["by_label"][label]
            rows.append(f"| {name} | {split} | {one['images']} | {one['precision']:.4f} | {one['recall']:.4f} | {one['f1']:.4f} |")
    return "\n".join(rows)
