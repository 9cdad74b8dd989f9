"""Write a package's network as a user of these frameworks would have it: `python -m tests.bench.servers.networks PACKAGE FOLDER`.

The same weights as in the package, but images (N, 3, S, S) float32 that are normalised outside: network.onnx, network.pt, facts.json.
"""

import json
import sys
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from catdog import models


def write(package: Path, folder: Path) -> None:
    """Export and save."""
    manifest = json.loads((package / "package.json").read_text())
    config, size = manifest["config"], manifest["preprocess"]["image_size"]
    # Of the weights only the shapes matter here: every one of them is loaded.
    classifier = models.build(config["model"], labels=manifest["labels"], weights="none", image_size=size, weights_folder=None)
    classifier.load_state_dict(load_file(package / "weights.safetensors"))
    network = nn.Sequential(classifier.backbone, classifier.head).eval()
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (torch.zeros(2, 3, size, size),), str(folder / "network.onnx"), dynamo=True, verbose=False, external_data=False,
            input_names=["images"], output_names=["logits"], dynamic_shapes=({0: torch.export.Dim("N", min=1, max=4096)},),
        )
    torch.save(network, folder / "network.pt")
    mean, std = ((value / 255).flatten().tolist() for value in (classifier.normalise.mean, classifier.normalise.std))
    (folder / "facts.json").write_text(json.dumps({"labels": manifest["labels"], "mean": mean, "std": std}))


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
