"""run: phases that are not done twice, a data set that must not change, a stop that loses nothing, failures that have names."""

import errno
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from catdog import catalogue, run
from catdog.config import TrainConfig
from catdog.errors import FAILURES, BadConfig, DatasetChanged, NonFiniteLoss
from catdog.files import sha256_of
from catdog.inference import Predictor
from catdog.progress import Progress
from tests.living import Finished


@pytest.fixture
def again(finished: Finished, tmp_path: Path) -> Path:
    """A copy of the finished run, to do things to."""
    return Path(shutil.copytree(finished.run, tmp_path / "run"))


def phases(folder: Path, finished: Finished) -> list[Progress]:
    return list(run.run(folder, finished.settings, fence=2))


def test_a_finished_run_does_nothing_again_and_gives_the_same_package(again: Path, finished: Finished) -> None:
    said = phases(again, finished)
    assert [p.phase for p in said if p.kind == "phase"] == ["preparing", "preparing", "training", "testing", "packaging"]
    assert not [p for p in said if p.kind in ("step", "epoch", "checkpoint")]
    assert said[-1].kind == "done" and said[-1].result is not None
    assert said[-1].result["digest"] == sha256_of(finished.run / "package" / "package.json")


def test_packaging_again_gives_the_same_network(again: Path, finished: Finished) -> None:
    shutil.rmtree(again / "package")
    phases(again, finished)
    one, other = (json.loads((folder / "package" / "package.json").read_text())["files"] for folder in (again, finished.run))
    assert one["weights.safetensors"] == other["weights.safetensors"]
    assert one["golden/logits.npy"] == other["golden/logits.npy"]


def test_the_test_split_is_evaluated_on_the_best_epoch(finished: Finished) -> None:
    history = [json.loads(line) for line in (finished.run / "metrics.jsonl").read_text().splitlines()]
    metrics = json.loads((finished.run / "metrics.json").read_text())
    best = min(history, key=lambda epoch: (epoch["val_loss"], epoch["epoch"]))
    assert metrics["best_epoch"] == best["epoch"]
    assert metrics["val"]["loss"] == pytest.approx(best["val_loss"], abs=1e-6)
    assert not any("test" in key for epoch in history for key in epoch)


def test_a_data_set_that_changed_is_refused(again: Path, finished: Finished) -> None:
    (again / "dataset.json").write_text(json.dumps({"id": "x", "fingerprint": "0" * 64}))
    with pytest.raises(DatasetChanged, match="fingerprint"):
        phases(again, finished)


def test_a_data_set_that_is_gone_is_refused(again: Path, finished: Finished) -> None:
    TrainConfig.parse({**TrainConfig.read(again).model_dump(), "dataset": "ds_" + "f" * 32}).write(again)
    with pytest.raises(DatasetChanged, match="Received: none"):
        phases(again, finished)


def start(folder: Path, finished: Finished) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "catdog", "run", str(folder), "--fence", "7"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=finished.settings.run_environment(),
    )


def test_sigterm_in_training_leaves_a_checkpoint_and_exit_75(finished: Finished, tmp_path: Path) -> None:
    config = TrainConfig.read(finished.run)
    TrainConfig.parse({**config.model_dump(), "epochs": 500}).write(tmp_path / "run")
    with start(tmp_path / "run", finished) as child:
        assert child.stdout is not None
        lines = iter(child.stdout)
        steps = (p for p in map(Progress.from_json, lines) if p.kind == "step" and p.phase == "training")
        next(steps)
        child.send_signal(signal.SIGTERM)
        last = [Progress.from_json(line) for line in lines]
        assert child.wait(timeout=60) == 75
    newest = max((tmp_path / "run" / "checkpoints" / "7").glob("step-*/MANIFEST.json"))
    said = [p.step for p in last if p.kind == "step" and p.step is not None]
    assert int(newest.parent.name.removeprefix("step-")) >= max(said, default=1)


def test_what_a_library_prints_is_not_among_the_lines(finished: Finished) -> None:
    with start(finished.run, finished) as child:
        assert child.stdout is not None
        for line in child.stdout:
            Progress.from_json(line)  # raises if it is anything else
        assert child.wait(timeout=120) == 0


def test_a_config_that_cannot_work_exits_2_and_says_so(finished: Finished, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with start(tmp_path / "run", finished) as child:
        out, _ = child.communicate(timeout=120)
    failed = Progress.from_json(out.splitlines()[-1])
    assert child.returncode == 2
    assert (failed.kind, failed.code) == ("failed", "config") and failed.remedy


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadConfig("x", field="y"), "config"),
        (DatasetChanged("x"), "dataset_changed"),
        (NonFiniteLoss("x", step=1), "non_finite_loss"),
        (torch.OutOfMemoryError("x"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (OSError(errno.ENOSPC, "full"), "disk_full"),
        (torch.AcceleratorError("x"), "device_error"),
        (RuntimeError("x"), "internal"),
    ],
)
def test_every_failure_has_a_code_of_the_table_and_a_remedy(error: Exception, code: str) -> None:
    failed = run.failure(error)
    assert (failed.kind, failed.code) == ("failed", code)
    assert code in FAILURES and failed.remedy


LONG: list[dict[str, Any]] = [
    {"model": "unet", "image_size": 32, "epochs": 2},
    {"model": "resnet18", "weights": "none", "image_size": 64, "epochs": 2},
    {"model": "vit_b_16", "weights": "none", "image_size": 64, "epochs": 1},
    {"model": "unet", "image_size": 32, "epochs": 1, "loss": "mse"},
    {"model": "resnet18", "weights": "none", "image_size": 64, "epochs": 1, "loss": "bce_with_logits"},
]


@pytest.mark.long
@pytest.mark.parametrize("fields", LONG, ids=lambda fields: f"{fields['model']}-{fields.get('loss', 'cross_entropy')}")
def test_from_training_to_prediction(finished: Finished, tmp_path: Path, fields: dict[str, Any]) -> None:
    """Networks of every family of heads, from random weights, through every phase, to an answer."""
    dataset = TrainConfig.read(finished.run).dataset
    TrainConfig.parse({"dataset": dataset, "batch_size": 8, **fields}).write(tmp_path / "run")
    done = phases(tmp_path / "run", finished)[-1]
    assert done.kind == "done"
    predictor = Predictor.load(tmp_path / "run" / "package")
    prediction = predictor.predict_file(next(finished.pictures.iterdir()))
    assert prediction.label in ("cat", "dog") and sum(prediction.probabilities.values()) == pytest.approx(1)
    assert fields["model"] in catalogue.NETWORKS
    assert (tmp_path / "run" / "package" / "weights.safetensors").stat().st_size > 1e6
