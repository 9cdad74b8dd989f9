"""to_onnx, with_head, check, package: from a trained network to a model package (its layout: catdog/inference.py).

N images, S side, C labels, F features. The exported graph takes pixels (N, S, S, 3) uint8 and answers logits (N, C) and
features (N, F) float32, and activation (N, F, h, w) where the features are its mean over all places; normalisation is inside. Nothing is
packaged that does not answer as the trained network does.
"""

import hashlib
import json
import logging
import os
import platform
import shutil
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import PIL
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from safetensors.torch import save_file
from torch import Tensor, nn

from catdog import __version__, card
from catdog import device as devices
from catdog.calibration import Bank
from catdog.errors import ExportMismatch
from catdog.files import sha256_of, share_as_folder, sync_folder, write_atomically
from catdog.images import Preprocess
from catdog.inference import FORMAT, SEEN, TOLERANCE, Predictor, off
from catdog.models import Classifier

GOLDEN_PICTURES = 16
_POOLING = ("ReduceMean", "GlobalAveragePool", "AveragePool")
_SAME = 1e-4
"""Between features and the mean of what may be their activation, as a share of the largest: sums in another order."""


class _Answers(nn.Module):
    """Both outputs of a classifier, for the exporter."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        # As classifier.features. Of what lies in memory as pixels do, channels last, the exporter writes each pooling over all places as a
        # Gather at places that the graph works out anew for each call.
        features = self.classifier.backbone(self.classifier.normalise(pixels).contiguous())
        return self.classifier.head(features), features


def to_onnx(classifier: Classifier, path: Path, *, image_size: int) -> None:
    """Write the network as an ONNX graph for any number of images; it is put in evaluation mode, on the CPU and channels first."""
    answers = _Answers(classifier.eval().cpu().to(memory_format=torch.contiguous_format))
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
    for node in program.model.graph:
        node.metadata_props.clear()  # the lines that it comes from, with the paths of the files on this machine
    with write_atomically(path) as unfinished:
        program.save(str(unfinished))
        _show_activation(unfinished, image_size)


def _show_activation(graph: Path, image_size: int) -> None:
    """Make what the last pooling takes an output, if its mean over all places is what the head sees; asked, not guessed from the layers."""
    model = onnx.load(str(graph))
    poolings = [node for node in model.graph.node if node.op_type in _POOLING]
    known = {info.name: info for info in model.graph.value_info}
    if not poolings or poolings[-1].input[0] not in known or len(known[poolings[-1].input[0]].type.tensor_type.shape.dim) != 4:
        return
    shown = known[poolings[-1].input[0]]
    model.graph.node.append(onnx.helper.make_node("Identity", [shown.name], ["activation"]))
    model.graph.output.append(onnx.helper.make_value_info("activation", shown.type))
    tried = graph.with_name(f"{graph.name}.activation")
    try:
        onnx.save(model, str(tried))
        pixels = np.random.default_rng(0).integers(0, 256, (2, image_size, image_size, 3), dtype=np.uint8)
        features, maps = devices.session(tried, device="cpu", threads=0).run(["features", "activation"], {"pixels": pixels})
        means = maps.mean(axis=(2, 3))
        if means.shape == features.shape and np.abs(means - features).max() <= _SAME * np.abs(features).max():
            tried.replace(graph)
    finally:
        tried.unlink(missing_ok=True)


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


def check(graph: Path, classifier: Classifier, pixels: NDArray[np.uint8]) -> None:
    """Compare what a graph answers to pixels (N, S, S, 3) uint8 with the trained network, which is put on the CPU.

    Raises:
        ExportMismatch: a logit is further off than TOLERANCE of float32.
    """
    with torch.no_grad():
        expected = classifier.eval().cpu()(torch.from_numpy(pixels)).numpy()
    (received,) = devices.session(graph, device="cpu", threads=0).run(["logits"], {"pixels": pixels})
    worst, tolerance = off(received, expected), TOLERANCE["float32"]
    if not worst <= tolerance:
        raise ExportMismatch(
            f"The exported network does not answer as the trained one. Expected its logits to {tolerance}. Received: {worst:.2g} off.",
        )


def package(  # noqa: PLR0913 - what a package is made of
    folder: Path, *, classifier: Classifier, graph: Path, bank: Bank, golden: Sequence[Path], facts: dict[str, Any],
    seen: Iterable[str], plots: Sequence[Path] = (), examined: Callable[[Predictor], Path | None] = lambda _: None,
) -> str:
    """Build the model package at `folder` and return its digest (sha256 of package.json).

    `graph` is what will be served. `golden` are pictures of the validation split; `facts` is what else package.json shall say (labels,
    preprocess, metrics, calibration, quantisation, pictures, config); `seen` are the sha256 of what it was trained on or chosen by;
    `plots` are pictures of the training. `examined` looks at the package, as it will be served, before it is one; the report it
    returns goes into it.

    Raises:
        CorruptPackage: the package does not load.
    """
    unfinished = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    (unfinished / "golden").mkdir(parents=True)
    try:
        shutil.copyfile(graph, unfinished / "model.onnx")
        save_file({name: tensor.contiguous() for name, tensor in classifier.cpu().state_dict().items()}, unfinished / "weights.safetensors")
        share_as_folder(unfinished / "weights.safetensors")
        bank.save(unfinished / "bank.npz")
        head = classifier.head  # where a network has none, its features are its logits
        np.save(unfinished / "head.npy", head.weight.detach().numpy() if isinstance(head, nn.Linear) else np.eye(bank.rows.shape[1]))
        _write_golden(unfinished, golden, Preprocess.from_dict(facts["preprocess"]))
        (unfinished / "CARD.md").write_text(card.written(facts))
        (unfinished / SEEN).write_text("".join(f"{sha256}\n" for sha256 in sorted(seen)))
        (unfinished / "plots").mkdir()
        for plot in plots:
            shutil.copyfile(plot, unfinished / "plots" / plot.name)
        facts = facts | {"format": FORMAT, "versions": versions()}
        _write_manifest(unfinished, facts)
        report = examined(Predictor.load(unfinished))
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


def _write_golden(folder: Path, pictures: Sequence[Path], preprocess: Preprocess) -> None:
    """Copy the pictures and store what the package's graph answers to them: logits.npy (N, C) float32."""
    pixels = []
    for number, picture in enumerate(pictures):
        data = picture.read_bytes()
        (folder / "golden" / f"{number:02d}.image").write_bytes(data)
        pixels.append(preprocess.pixels_of(data))
    (logits,) = devices.session(folder / "model.onnx", device="cpu", threads=0).run(["logits"], {"pixels": np.stack(pixels)})
    np.save(folder / "golden" / "logits.npy", logits)


def _write_manifest(folder: Path, facts: dict[str, Any]) -> str:
    """package.json: the facts, and the sha256 of every other file."""
    files = {str(path.relative_to(folder)): sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    files.pop("package.json", None)
    text = json.dumps(facts | {"files": files}, indent=2, allow_nan=False) + "\n"
    (folder / "package.json").write_text(text)
    return text
