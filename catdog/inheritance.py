"""has_checkpoint, take: what a resumed run takes over from the run it goes on from.

    checkpoints/    the newest valid checkpoint, and that of its best epoch      -> checkpoints/0/
    features/       of train and val, and the graph that gave them               (those of test only the phase `testing` may compute)
    metrics.jsonl   the epochs up to that checkpoint

The old run stays as it is. The two share the bytes where the file system has hard links: none of these files is ever written again.
"""

import contextlib
import json
from pathlib import Path

from catdog import epochs
from catdog.config import TrainConfig
from catdog.errors import DatasetChanged
from catdog.files import link_or_copy


def has_checkpoint(run_folder: Path) -> bool:
    """Whether a run has left a checkpoint that it declared whole; who goes on from it also compares its bytes."""
    manifests = (run_folder / "checkpoints").glob("*/step-*/MANIFEST.json")
    return any(path.parent.name.removeprefix("step-").isdigit() for path in manifests)


def take(old: Path, new: Path, config: TrainConfig, *, fingerprint: str) -> None:
    """Let the run in the folder `new` begin where that in `old` was. A run with a checkpoint of its own goes on from that.

    Raises:
        BadConfig: the two configs differ where a checkpoint would mean something else.
        DatasetChanged: the old run saw a data set with another fingerprint.
        CorruptCheckpoint: the old run has no valid checkpoint.
    """
    from catdog import checkpoints  # with torch, which the service that asks has_checkpoint does not have

    found = checkpoints.latest(new / "checkpoints", fence=-1)  # only looks
    if found is None:
        TrainConfig.read(old).resumed(config.model_dump(mode="json"))
        _check_fingerprint(old, fingerprint)
        _take_features(old / "features", new / "features")
        found = checkpoints.inherit(old / "checkpoints", new / "checkpoints")
    if not (new / "metrics.jsonl").exists():  # outside of the if: an attempt may have been killed in between
        epochs.inherit(old, new, upto=found.state["epoch"])


def _check_fingerprint(old: Path, fingerprint: str) -> None:
    seen = ""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        seen = str(json.loads((old / "dataset.json").read_text())["fingerprint"])
    if seen != fingerprint:
        raise DatasetChanged(
            f"Expected the data set that the resumed run saw, with the fingerprint {seen[:16] or 'in its dataset.json'}. "
            f"Received: {fingerprint[:16]}.",
        )


def _take_features(old: Path, new: Path) -> None:
    """The config's REMAINS and the fingerprint say that they would be the same if they were computed again."""
    wanted = [path for path in old.glob("*.safetensors") if not path.name.startswith("test")]
    for path in [*wanted, *old.glob("backbone.onnx")]:
        new.mkdir(exist_ok=True)
        link_or_copy(path, new / path.name)
