"""run: phases that are not done twice, a data set that must not change, a stop that loses nothing, failures that have names."""

import errno
import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from catdog import catalogue, export, loaders, loop, losses, optimizers, quantisation, run
from catdog.cache import Cache
from catdog.config import TrainConfig
from catdog.datasets import Dataset
from catdog.doctor.findings import Report
from catdog.errors import FAILURES, BadConfig, CorruptCheckpoint, DatasetChanged, NonFiniteLoss, TestSplitTouched
from catdog.files import sha256_of
from catdog.inference import Predictor
from catdog.loaders import Splits
from catdog.progress import Progress
from catdog.settings import Settings
from tests.living import FAST_JOB, Finished


@pytest.fixture
def again(finished: Finished, tmp_path: Path) -> Path:
    """A copy of the finished run, to do things to."""
    return Path(shutil.copytree(finished.run, tmp_path / "run"))


def history(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def phases(folder: Path, finished: Finished) -> list[Progress]:
    return list(run.run(folder, finished.settings, fence=2))


def test_a_finished_run_does_nothing_again_and_gives_the_same_package(again: Path, finished: Finished) -> None:
    said = phases(again, finished)
    assert [p.phase for p in said if p.kind == "phase"] == [
        "preparing", "preparing", "examining", "features", "training", "testing", "packaging",
    ]
    assert not [p for p in said if p.kind in ("step", "epoch", "checkpoint")]
    assert said[-1].kind == "done" and said[-1].result is not None
    assert said[-1].result["digest"] == sha256_of(finished.run / "package" / "package.json")


def test_an_attempt_sweeps_what_a_killed_one_left_and_a_rank_leaves_what_another_is_writing(again: Path, finished: Finished) -> None:
    file, folder = again / "dataset.json.tmp-1a2b", again / "checkpoints" / "best.tmp-3c4d"
    file.write_text("{")
    folder.mkdir(parents=True)
    run.prepare(again, finished.settings)
    assert file.exists() and folder.exists()
    phases(again, finished)
    assert not file.exists() and not folder.exists()


def test_a_champion_is_compared_with_after_packaging_on_what_neither_has_seen(again: Path, finished: Finished) -> None:
    champion = finished.run / "package"
    *said, done = run.run(again, finished.settings, fence=2, champion=champion)
    assert [p.phase for p in said if p.kind == "phase"][-2:] == ["packaging", "comparing"] and done.phase == "comparing"
    dataset = Dataset.open(finished.settings.datasets / TrainConfig.read(again).dataset)
    assert done.result is not None
    compared = done.result["comparison"]
    assert compared["pictures"] == len(dataset.split("test")) and compared["wins"] == compared["losses"] == 0
    assert compared["champion_digest"] == sha256_of(champion / "package.json")
    accuracy = done.result["metrics"]["test"]["accuracy"]
    assert compared["accuracy"] == pytest.approx({"challenger": accuracy, "champion": accuracy})


def test_a_package_says_what_it_was_made_with(finished: Finished) -> None:
    dataset = Dataset.open(finished.settings.datasets / TrainConfig.read(finished.run).dataset)
    made_with = {record.sha256 for split in ("train", "val") for record in dataset.split(split)}
    assert Predictor.load(finished.run / "package").seen() == made_with


def test_a_champion_that_does_not_load_ends_no_run(again: Path, finished: Finished, tmp_path: Path) -> None:
    champion = Path(shutil.copytree(finished.run / "package", tmp_path / "champion"))
    (champion / "model.onnx").write_bytes(b"")
    *said, done = run.run(again, finished.settings, fence=2, champion=champion)
    assert done.kind == "done" and done.result is not None and "comparison" not in done.result
    (warning,) = [p for p in said if p.kind == "warning" and p.phase == "comparing"]
    assert "No comparison with the champion" in (warning.message or "")


def test_packaging_again_gives_the_same_network(again: Path, finished: Finished) -> None:
    shutil.rmtree(again / "package")
    phases(again, finished)
    one, other = (json.loads((folder / "package" / "package.json").read_text())["files"] for folder in (again, finished.run))
    assert one["weights.safetensors"] == other["weights.safetensors"]
    assert one["golden/logits.npy"] == other["golden/logits.npy"]


def test_the_test_split_is_evaluated_on_the_best_epoch(finished: Finished) -> None:
    epochs = history(finished.run)
    metrics = json.loads((finished.run / "metrics.json").read_text())
    best = min(epochs, key=lambda epoch: (epoch["val_loss"], epoch["epoch"]))
    assert metrics["best_epoch"] == best["epoch"]
    assert metrics["val"]["loss"] == pytest.approx(best["val_loss"], abs=1e-6)
    assert not any("test" in key for epoch in epochs for key in epoch)


def test_what_is_measured_and_used_of_each_label_stands_in_every_place(finished: Finished) -> None:
    dataset = Dataset.open(finished.settings.datasets / TrainConfig.read(finished.run).dataset)
    package = json.loads((finished.run / "package" / "package.json").read_text())
    metrics = json.loads((finished.run / "metrics.json").read_text())
    card = (finished.run / "package" / "CARD.md").read_text()
    assert package["pictures"]["counts"] == dataset.counts and package["pictures"]["balance"] == "natural"
    for split in ("val", "test"):
        figures, trained = package["metrics"][split], metrics[split]
        assert figures["confusion"] == trained["confusion"] and figures["loss"] == pytest.approx(trained["loss"], rel=1e-3)
        assert package["calibration"][split]["before"] == pytest.approx({name: trained[name] for name in ("ece", "brier")}, abs=1e-3)
        assert package["calibration"][split]["after"] == {name: figures[name] for name in ("ece", "brier")}
        assert figures["balanced_accuracy"] == pytest.approx(sum(one["recall"] for one in figures["by_label"].values()) / 2)
        assert f"| {split} | {figures['images']} | {figures['accuracy']:.4f} | {figures['balanced_accuracy']:.4f} |" in card
        for label, one in figures["by_label"].items():
            assert one["images"] == dataset.counts[split][label]
            assert f"| {label} | {split} | {one['images']} | {one['precision']:.4f} | {one['recall']:.4f} | {one['f1']:.4f} |" in card
    best = next(epoch for epoch in history(finished.run) if epoch["epoch"] == metrics["best_epoch"])
    assert best["val_balanced_accuracy"] == pytest.approx(metrics["val"]["balanced_accuracy"])
    assert best["val_recall"] == pytest.approx([one["recall"] for one in metrics["val"]["by_label"].values()], abs=1e-4)
    assert "pictures: train " in finished.printed


def test_what_came_of_it_is_drawn_and_goes_into_the_package(finished: Finished) -> None:
    metrics = json.loads((finished.run / "metrics.json").read_text())
    assert metrics["stop_reason"] == "epochs"
    assert sum(map(sum, metrics["test"]["confusion"])) == metrics["test"]["images"] == sum(one["images"] for one in metrics["test"]["bins"])
    for name in ("confusion.svg", "curves.svg", "reliability.svg"):
        assert (finished.run / "package" / "plots" / name).read_bytes() == (finished.run / "artifacts" / name).read_bytes()
    assert "before calibration" in (finished.run / "artifacts" / "reliability.svg").read_text()
    served = json.loads((finished.run / "package" / "package.json").read_text())["metrics"]["test"]
    assert f"| {served['ece']:.4f} | {served['brier']:.4f} |" in (finished.run / "package" / "CARD.md").read_text()


def test_each_epoch_measures_a_part_of_train_as_it_measures_val(finished: Finished) -> None:
    dataset = Dataset.open(finished.settings.datasets / TrainConfig.read(finished.run).dataset)
    prepared = run.prepare(finished.run, finished.settings)
    assert len(prepared.records["train_eval"]) == sum(dataset.counts["val"].values())
    assert {record.sha256 for record in prepared.records["train_eval"]} <= {record.sha256 for record in prepared.records["train"]}
    assert prepared.seen("train").augment == "default" and prepared.seen("train_eval").augment == prepared.seen("val").augment == "none"
    assert all("train_eval_loss" in epoch and "val_auroc" in epoch for epoch in history(finished.run))


def test_a_frozen_backbone_is_run_once_over_each_view_and_the_epochs_take_turns(other: Finished) -> None:
    prepared = run.prepare(other.run, other.settings)
    config = prepared.config.model_copy(update={"trainable": "head", "augment": "light", "views": 3, "balance": "natural"})
    optimizers.freeze(prepared.classifier, "head")
    frozen = replace(prepared, config=config)
    assert frozen.frozen
    said = list(run.features(frozen))
    assert said[-1].kind == "step"
    train, val = frozen.split("train"), frozen.split("val")
    everything = range(len(train))
    views = [train.fetch(everything, epoch) for epoch in range(4)]
    assert not torch.equal(views[0], views[1]) and not torch.equal(views[1], views[2]) and torch.equal(views[0], views[3])
    assert torch.equal(val.fetch([0, 1], 0), val.fetch([0, 1], 1))
    pixels = loaders.pixels(frozen.seen("train"), threads=1).fetch([2], 1)
    with torch.no_grad():
        torch.testing.assert_close(views[1][2:3], frozen.classifier.eval().features(pixels), rtol=1e-3, atol=1e-4)


@pytest.fixture
def other(finished: Finished, tmp_path: Path) -> Finished:
    """Another machine with the same data set and a new run folder: a subset of the pictures, balanced, whole in the frame."""
    settings = Settings.load(data_dir=tmp_path / "data")
    settings.make_folders()
    dataset = TrainConfig.read(finished.run).dataset
    shutil.copytree(finished.settings.datasets / dataset, settings.datasets / dataset)
    fields = {**FAST_JOB, "epochs": 1, "geometry": "letterbox", "augment": "light", "balance": "sampler", "n_train": 10, "n_val": 4}
    TrainConfig.parse({"dataset": dataset, **fields}).write(tmp_path / "run")
    return Finished(settings, finished.pictures, tmp_path / "run", "")


def test_no_picture_of_the_test_split_is_touched_before_testing(other: Finished) -> None:
    """Until the run says that it tests, there are none: whoever drew one would fail."""
    dataset = Dataset.open(other.settings.datasets / TrainConfig.read(other.run).dataset)
    tested = {dataset.path(record): dataset.read(record) for record in dataset.split("test")}
    for path in tested:
        path.unlink()
    said = []
    for progress in run.run(other.run, other.settings):
        said.append(progress)
        if progress.kind == "phase" and progress.phase == "testing":
            for path, data in tested.items():
                path.write_bytes(data)
        if progress.phase == "packaging":
            break
    assert [p.kind for p in said if p.phase == "training"].count("epoch") == 1
    metrics = json.loads((other.run / "metrics.json").read_text())
    assert metrics["test"]["images"] == len(tested) and metrics["val"]["images"] == 4
    (pictures,) = [p.result["pictures"] for p in said if p.result and "pictures" in p.result]
    assert pictures["images"] == {"train": 10, "val": 4, "test": len(tested)}
    assert pictures["counts"]["train"] == pictures["turns_per_epoch"] == {"cat": 5, "dog": 5}


def test_a_batch_of_the_test_split_before_testing_is_refused_whoever_asks(other: Finished, tmp_path: Path) -> None:
    prepared = run.prepare(other.run, other.settings)
    train, test = prepared.split("train"), prepared.split("test")
    assert prepared.preprocess.geometry == "letterbox"
    loss = losses.build("cross_entropy", labels=2)
    for phase in ("preparing", "features", "training"):
        prepared.enter(phase)
        assert next(train.batches([[0, 1]])) and len(test) and len(prepared.records["test"])  # scanning is allowed
        with pytest.raises(TestSplitTouched, match=f"Received: one in {phase}"):
            next(test.batches([[0, 1]]))
        with pytest.raises(TestSplitTouched):
            list(loop.evaluate(prepared.network, test, loss=loss, batch_size=2))
        with pytest.raises(TestSplitTouched):
            list(run.fill_cache(prepared, "test"))
        with pytest.raises(TestSplitTouched):
            list(run.compute_features(prepared, "val", "test", phase=phase))
    mistaken = loop.train(prepared.network, Splits(train, test), prepared.config, labels=2, device="cpu", folder=tmp_path / "checkpoints")
    with pytest.raises(TestSplitTouched):  # a run that chose its best epoch by the test split
        list(mistaken)
    prepared.enter("testing")
    assert [said.step for said in loop.evaluate(prepared.network, test, loss=loss, batch_size=len(test))] == [len(test)]
    assert run.failure(TestSplitTouched("x")).code == "internal"


def test_pictures_that_find_no_room_are_decoded_anew_and_that_is_said(other: Finished) -> None:
    roomy = run.prepare(other.run, other.settings)
    crowded = replace(roomy, cache=Cache(other.settings.cache, 100))
    (warning,) = run.features(crowded)
    assert warning.kind == "warning" and "decodes its pictures anew" in (warning.message or "")
    plan = roomy.split("train").plan(4)
    anew = list(crowded.split("train").batches(plan))
    said = list(run.features(roomy))
    assert [(p.kind, p.steps) for p in said][-1] == ("step", 4) and len(list(other.settings.cache.glob("*[0-9a-f]"))) == 3
    for one, another in zip(anew, roomy.split("train").batches(plan), strict=True):
        assert all(torch.equal(*pair) for pair in zip(one, another, strict=True)), "the cache changes nothing but the time"
    assert list(run.features(roomy)) == [], "decoded once"


def test_more_pictures_than_there_are_end_a_run_before_it_begins(other: Finished) -> None:
    TrainConfig.parse({**TrainConfig.read(other.run).model_dump(), "n_train": 1000}).write(other.run)
    with pytest.raises(BadConfig, match="n_train: expected at most the") as caught:
        run.prepare(other.run, other.settings)
    assert run.failure(caught.value).code == "config"


def test_a_data_set_that_changed_is_refused(again: Path, finished: Finished) -> None:
    (again / "dataset.json").write_text(json.dumps({"id": "x", "fingerprint": "0" * 64}))
    with pytest.raises(DatasetChanged, match="fingerprint"):
        phases(again, finished)


def test_a_data_set_that_is_gone_is_refused(again: Path, finished: Finished) -> None:
    TrainConfig.parse({**TrainConfig.read(again).model_dump(), "dataset": "ds_" + "f" * 32}).write(again)
    with pytest.raises(DatasetChanged, match="Received: none"):
        phases(again, finished)


@pytest.fixture
def stopped(finished: Finished, tmp_path: Path) -> Path:
    """A run of the finished one's config that was stopped in its second epoch."""
    folder = tmp_path / "stopped"
    TrainConfig.read(finished.run).write(folder)
    stop_in_second_epoch(folder, finished.settings)
    return folder


def stop_in_second_epoch(folder: Path, settings: Settings) -> None:
    steps = run.run(folder, settings)
    for progress in steps:
        if progress.kind == "step" and progress.phase == "training" and progress.epoch == 2:
            steps.close()


def resumed(old: Path, new: Path, settings: Settings, **changes: Any) -> list[Progress]:
    TrainConfig.parse({**TrainConfig.read(old).model_dump(), **changes}).write(new)
    return list(run.run(new, settings, fence=1, resume_from=old))


def test_a_resumed_run_ends_as_the_uninterrupted_one_and_does_nothing_twice(finished: Finished, stopped: Path, tmp_path: Path) -> None:
    said = resumed(stopped, tmp_path / "new", finished.settings)
    begun = [p.step for p in said if p.kind == "step" and p.phase == "training"]
    newest = max(path.name for path in (stopped / "checkpoints" / "0").iterdir())
    assert begun[0] == int(newest.removeprefix("step-")) + 1, "from the very next step"
    assert [p.epoch for p in said if p.kind == "epoch"] == [2, 3]
    new, whole = ([Progress(**epoch) for epoch in history(folder)] for folder in (tmp_path / "new", finished.run))
    assert new == whole, "but for the seconds that they took"
    assert len(history(stopped)) == 1, "the old run is left as it was"
    weights = (folder / "package" / "weights.safetensors" for folder in (tmp_path / "new", finished.run))
    assert len({sha256_of(path) for path in weights}) == 1


def test_a_finished_run_goes_on_with_more_epochs(finished: Finished, tmp_path: Path) -> None:
    said = resumed(finished.run, tmp_path / "new", finished.settings, epochs=4)
    assert [p.epoch for p in said if p.kind == "epoch"] == [4] and said[-1].kind == "done"
    assert [epoch["epoch"] for epoch in history(tmp_path / "new")] == [1, 2, 3, 4]


def test_the_features_of_a_frozen_backbone_are_taken_over_but_not_those_of_test(finished: Finished, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    TrainConfig.parse({"dataset": TrainConfig.read(finished.run).dataset, "epochs": 3, "batch_size": 8, "image_size": 64}).write(old)
    stop_in_second_epoch(old, finished.settings)
    (old / "features" / "test.safetensors").write_text("no features")
    said = resumed(old, new, finished.settings)
    assert not [p for p in said if p.phase == "features" and p.kind == "step"]
    assert [p.steps for p in said if p.phase == "testing" and p.kind == "step"], "test was computed, in its phase"
    for name in ("train.safetensors", "val.safetensors", "backbone.onnx"):
        assert (new / "features" / name).samefile(old / "features" / name)


def test_what_a_run_went_on_from_must_be_of_its_kind(finished: Finished, stopped: Path, tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="seed: expected 0, as in the run that is resumed") as caught:
        resumed(stopped, tmp_path / "new", finished.settings, seed=3)
    assert run.failure(caught.value).code == "config"
    (stopped / "dataset.json").write_text(json.dumps({"id": "x", "fingerprint": "0" * 64}))
    with pytest.raises(DatasetChanged, match="that the resumed run saw"):
        resumed(stopped, tmp_path / "new", finished.settings)
    shutil.rmtree(stopped / "checkpoints")
    shutil.copy(finished.run / "dataset.json", stopped)
    with pytest.raises(CorruptCheckpoint) as gone:
        resumed(stopped, tmp_path / "new", finished.settings)
    assert "Start a new training" in (run.failure(gone.value).remedy or "")


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


def test_a_package_in_eight_bits_is_of_them_throughout_and_a_new_attempt_makes_none_of_them_again(
    again: Path, finished: Finished, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first attempt ends where the package is put together."""
    shutil.rmtree(again / "package")
    TrainConfig.read(again).changed({"quantise": "auto"}).write(again)
    monkeypatch.setattr(quantisation, "milliseconds", lambda *_: [2.0, 1.0])  # of so small a network either may be quicker, by chance
    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        patched.setattr(export, "save_file", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
        phases(again, finished)
    assert not (again / "package").exists() and (again / "packaging" / "int8.onnx").exists()
    with monkeypatch.context() as patched:
        for module, name in ((quantisation, "quantise"), (export, "to_onnx"), (loaders, "compute_features")):
            patched.setattr(module, name, None)
        phases(again, finished)
    assert not (again / "packaging").exists() and list(again.glob("*.tmp-*")) == []
    predictor = Predictor.load(again / "package")
    assert predictor.manifest["quantisation"]["served"] == "int8" and "Served in int8: 2.0 times as quick" in (
        again / "package" / "CARD.md").read_text()
    exact = Predictor.load(finished.run / "package")
    golden = [predictor.preprocess.pixels_of(path.read_bytes()) for path in sorted((again / "package" / "golden").glob("*.image"))]
    rounded, floats = predictor.logits(np.stack(golden)), exact.logits(np.stack(golden))
    assert np.array_equal(rounded, np.load(again / "package" / "golden" / "logits.npy")) and not np.array_equal(rounded, floats)
    weights = [(folder / "package" / "weights.safetensors").read_bytes() for folder in (again, finished.run)]
    assert weights[0] == weights[1], "what is trained further is not rounded"
    assert predictor.predict(np.stack(golden), explain=True)[0].activation is not None
    report = Report.read(again)
    assert report is not None and report.is_healthy and "S02" in report.passed


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
    assert prediction.best in ("cat", "dog") and sum(prediction.probabilities.values()) == pytest.approx(1)
    assert fields["model"] in catalogue.NETWORKS
    assert (tmp_path / "run" / "package" / "weights.safetensors").stat().st_size > 1e6
