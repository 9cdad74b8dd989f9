"""Traces say what the run said, each epoch once, and never stand in its way."""

import json
import os
import socket
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from catdog import __version__, settings, tracking
from catdog.config import TrainConfig
from catdog.progress import Progress

tensorboard = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
mlflow = pytest.importorskip("mlflow")
DATASET = {"id": "ds_" + "0" * 32, "fingerprint": "f" * 64}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run folder as the phase `preparing` leaves it."""
    folder = tmp_path / "job_1"
    TrainConfig.parse({"dataset": DATASET["id"], "trainable": ["head.*", "backbone.layer4.*"]}).write(folder)
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    return folder


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No server, unless a test names one; what `mlflow_server` adds for the client goes again."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("MLFLOW_") and name != "MLFLOW_DISABLE_TELEMETRY"]:
        del os.environ[name]
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A tracking store of the client's own, in files; its maker would rather see a database, which the slim client has none for."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    return mlflow.MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())


def epoch(number: int, **more: Any) -> Progress:
    return Progress(
        "epoch", phase="training", epoch=number, epochs=3, step=10 * number, steps=30,
        train_loss=0.8 / number, train_eval_loss=0.7 / number, val_loss=0.9 / number, val_balanced_accuracy=0.5,
        val_recall=[0.4, 0.6], learning_rate=0.001, best_epoch=number, eta_seconds=9.0, **more,
    )


DONE = Progress("done", phase="packaging", result={
    "digest": "d", "labels": ["cat", "dog"],
    "metrics": {"best_epoch": 3, "val": {"loss": 0.3}, "test": {"loss": 0.31, "accuracy": 1, "auroc": None, "by_label": {"cat": {}}}},
})


def a_run(folder: Path, *steps: Progress | BaseException) -> Generator[Progress]:
    """What a run says, and does: an epoch's line stands in metrics.jsonl before it is said."""
    yield Progress("phase", phase="preparing")
    yield Progress("phase", phase="training")
    for step in steps:
        if isinstance(step, BaseException):
            raise step
        if step.kind == "epoch":
            with (folder / "metrics.jsonl").open("a") as history:
                history.write(step.to_json() + "\n")
        yield step


def follow(folder: Path, *steps: Progress | BaseException) -> list[Progress]:
    return list(tracking.tracked(a_run(folder, *steps), folder))


def kill(folder: Path, *steps: Progress) -> None:
    """An attempt that is stopped when the last of its steps has been said."""
    run = tracking.tracked(a_run(folder, *steps, DONE), folder)
    for step in run:
        if step == steps[-1]:
            run.close()


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard would show."""
    found = tensorboard.EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return {tag: [(one.step, round(one.value, 6)) for one in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def the_run(store: Any, experiment: str = "catdog") -> Any:
    """The only MLflow run of an experiment."""
    found = store.search_runs([store.get_experiment_by_name(experiment).experiment_id])
    assert len(found) == 1
    return found[0]


def history(store: Any, name: str, experiment: str = "catdog") -> list[tuple[int, float]]:
    return [(one.step, one.value) for one in store.get_metric_history(the_run(store, experiment).info.run_id, name)]


def test_everything_passes_through_unchanged(folder: Path) -> None:
    steps = [epoch(1), Progress("checkpoint", phase="training", path="x"), epoch(2), DONE]
    assert follow(folder, *steps)[2:] == steps


def test_tensorboard_shows_each_epoch_in_groups(folder: Path) -> None:
    follow(folder, epoch(1), epoch(2), DONE)
    assert scalars(folder) == {
        "loss/train": [(1, 0.8), (2, 0.4)], "loss/train_eval": [(1, 0.7), (2, 0.35)], "loss/val": [(1, 0.9), (2, 0.45)],
        "balanced_accuracy/val": [(1, 0.5), (2, 0.5)], "learning_rate": [(1, 0.001), (2, 0.001)],
        "loss/test": [(3, 0.31)], "accuracy/test": [(3, 1.0)],
    }
    assert not (folder / "mlflow.json").exists()


def test_tensorboard_shows_an_epoch_once_however_often_a_run_is_killed(folder: Path) -> None:
    kill(folder, epoch(1), epoch(2))
    kill(folder, epoch(2), epoch(3))
    follow(folder, DONE)
    assert [step for step, _ in scalars(folder)["loss/val"]] == [1, 2, 3]


def test_mlflow_has_config_metrics_tags_and_end(folder: Path, store: Any) -> None:
    assert [step.kind for step in follow(folder, epoch(1), epoch(2), DONE)] == ["phase", "phase", "epoch", "epoch", "done"]
    run = the_run(store)
    assert run.info.run_name == "job_1" and run.info.status == "FINISHED" and run.info.end_time
    assert run.data.params["model"] == "efficientnet_lite0" and run.data.params["publish.alias"] == "champion"
    assert run.data.params["trainable"] == "['head.*', 'backbone.layer4.*']" and run.data.params["patience"] == "None"
    tags = {name: value for name, value in run.data.tags.items() if name.startswith("catdog.")}
    assert tags == {"catdog.version": __version__, "catdog.dataset": DATASET["id"], "catdog.fingerprint": DATASET["fingerprint"]}
    assert set(run.data.metrics) == {
        "train_loss", "train_eval_loss", "val_loss", "val_balanced_accuracy", "learning_rate", "epoch", "test_loss", "test_accuracy",
    }
    assert history(store, "val_loss") == [(1, 0.9), (2, 0.45)] and history(store, "test_accuracy") == [(3, 1.0)]


def test_a_long_value_of_the_config_is_cut(folder: Path, store: Any) -> None:
    TrainConfig.parse({"dataset": DATASET["id"], "trainable": ["x" * 200] * 40}).write(folder)
    follow(folder, DONE)
    assert len(the_run(store).data.params["trainable"]) == tracking.MAX_PARAM_LETTERS


def test_a_run_that_goes_on_goes_on_in_the_same_mlflow_run(folder: Path, store: Any) -> None:
    kill(folder, epoch(1), epoch(2))
    assert the_run(store).info.status == "KILLED"
    kill(folder, epoch(2, val_accuracy=0.1), epoch(3))  # killed before its checkpoint, the epoch comes again
    follow(folder, DONE)
    assert the_run(store).info.status == "FINISHED"
    assert [step for step, _ in history(store, "val_loss")] == [1, 2, 3] and "val_accuracy" not in the_run(store).data.metrics


def test_epochs_that_a_kill_kept_from_the_server_are_told_by_the_next_attempt(folder: Path, store: Any) -> None:
    (folder / "metrics.jsonl").write_text(f"{epoch(1).to_json()}\n{epoch(2).to_json()}\n{epoch(2).to_json()[:50]}")
    follow(folder, epoch(3), DONE)
    assert [step for step, _ in history(store, "val_loss")] == [1, 2, 3]


def test_a_failed_run_is_failed(folder: Path, store: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        follow(folder, epoch(1), ZeroDivisionError())
    assert the_run(store).info.status == "FAILED" and history(store, "val_loss") == [(1, 0.9)]


def test_what_fails_while_it_is_prepared_leaves_no_trace(folder: Path, store: Any) -> None:
    def refused() -> Generator[Progress]:
        yield Progress("phase", phase="preparing")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(tracking.tracked(refused(), folder))
    assert store.get_experiment_by_name("catdog") is None and not (folder / "tensorboard").exists()


def test_stopping_stops_the_run_itself(folder: Path) -> None:
    stopped = []

    def endless() -> Generator[Progress]:
        try:
            while True:
                yield Progress("step", phase="training")
        finally:
            stopped.append(True)

    run = tracking.tracked(endless(), folder)
    next(run)
    run.close()
    assert stopped == [True]


def test_the_experiment_may_be_named_and_be_there(folder: Path, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "pets")
    store.create_experiment("pets")
    follow(folder, epoch(1), DONE)
    assert history(store, "val_loss", "pets") == [(1, 0.9)]


@pytest.fixture
def refusing() -> Iterator[tuple[int, list[int]]]:
    """A server that hangs up on everybody: its port, and a number for each who came."""
    came: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        def answer() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                came.append(len(came))
                connection.close()

        thread = Thread(target=answer)
        thread.start()
        yield server.getsockname()[1], came
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_server_that_hangs_up_is_asked_twice_and_costs_one_warning(
    folder: Path, refusing: tuple[int, list[int]], monkeypatch: pytest.MonkeyPatch,
) -> None:
    port, came = refusing
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{port}")
    steps = [epoch(number) for number in range(1, 30)]
    said = follow(folder, *steps, DONE)
    assert [step for step in said if step.kind != "warning"][2:] == [*steps, DONE]
    warning, = (step for step in said if step.kind == "warning")
    assert warning.message and warning.message.startswith("MLflow takes no further traces of this run (MlflowException")
    assert "secret" not in warning.message
    assert said[-1] == DONE
    assert len(came) == 2
    assert len(scalars(folder)["loss/val"]) == 29


def test_a_closed_port_costs_one_warning(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    said = [step.kind for step in follow(folder, epoch(1), epoch(2), DONE)]
    assert said.count("warning") == 1 and said[-1] == "done"


def test_a_server_that_never_answers_is_not_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "WAIT_SECONDS", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes connections, and that is all
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.getsockname()[1]}")
        said = follow(folder, epoch(1), DONE)
    assert [step.message for step in said if step.kind == "warning" and "MLflow" in (step.message or "")] == [
        "MLflow did not take all traces of this run within 0.01 seconds.",
    ]


def test_an_address_that_is_none_costs_one_warning(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "gopher://example.invalid")
    assert [step.kind for step in follow(folder, epoch(1), DONE)].count("warning") == 1


def test_tensorboard_that_cannot_write_costs_one_warning(folder: Path) -> None:
    (folder / "tensorboard").write_text("in the way")
    said = follow(folder, epoch(1), DONE)
    warning, = (step.message for step in said if step.kind == "warning")
    assert warning and warning.startswith("TensorBoard takes no further traces of this run (")


def test_without_the_packages_nothing_is_said_unless_a_server_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert follow(folder, epoch(1), DONE)[2:] == [epoch(1), DONE]
    assert not (folder / "tensorboard").exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    warning, = (step.message for step in follow(folder, DONE) if step.kind == "warning")
    assert warning and "pip install 'catdog[track]'" in warning


def test_the_client_sends_nothing_home_and_gives_up_soon_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    known = mlflow.environment_variables
    assert known.MLFLOW_DISABLE_TELEMETRY.get() is True
    assert settings.mlflow_server() is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    assert settings.mlflow_server() == ("http://127.0.0.1:1", "catdog")
    assert known.MLFLOW_HTTP_REQUEST_TIMEOUT.get() == 77 and known.MLFLOW_HTTP_REQUEST_MAX_RETRIES.get() == 1
    assert known.MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER.get() is False and known.MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.get() is True
