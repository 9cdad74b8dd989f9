"""tracked: a run's traces where people already look for them: TensorBoard's event files, and an MLflow server.

What a run says passes through unchanged. Each tracker follows in a thread of its own, so that a server which is slow or away costs the
training nothing: its first failure is one warning, then it is left alone, and the end waits WAIT_SECONDS for it at most.
However often a run is killed and repeats an epoch, it is traced once: what earlier attempts left in metrics.jsonl is told first.
"""

import json
import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple

from catdog import __version__
from catdog.axes import finite
from catdog.config import TrainConfig
from catdog.files import write_atomically
from catdog.progress import Progress
from catdog.settings import mlflow_server

WAIT_SECONDS = 10.0
MAX_PARAM_LETTERS = 500
"""Of a value of the config: what older MLflow servers take too."""
_NOT_MEASURED = {"epoch", "epochs", "step", "steps", "best_epoch", "eta_seconds"}


class _Told(NamedTuple):
    """What was measured, named as in Progress, at an epoch."""

    epoch: int
    values: dict[str, float]
    is_epoch: bool = True
    """Whether it is the epoch's own line, not what came of the test split in the end."""


class _Follower(Thread):
    """What one tracker is told, in order, and how it fared."""

    def __init__(self, name: str, follow: "Callable[[_Follower], None]") -> None:
        super().__init__(name=name, daemon=True)
        self.status = "RUNNING"
        """MLflow's word for how the run ended, once it has."""
        self.told = SimpleQueue[_Told | None]()
        self._follow, self._failure, self._is_said = follow, "", False

    def __iter__(self) -> Iterator[_Told]:
        return iter(self.told.get, None)

    def run(self) -> None:
        """Follow to the end, or to the first failure."""
        try:
            self._follow(self)
        except Exception as error:  # noqa: BLE001  whatever fails here, training goes on
            reason = re.sub(r"//[^/\s]*@", "//***@", f"{type(error).__name__}: {error}".partition("\n")[0])  # a URL may hold a password
            self._failure = f"{self.name} takes no further traces of this run ({reason[:500]})."

    def wait(self, seconds: float) -> None:
        """Give it time to finish."""
        self.join(seconds)
        if self.is_alive():
            self._failure = f"{self.name} did not take all traces of this run within {WAIT_SECONDS:g} seconds."

    def warnings(self, phase: str | None) -> Iterator[Progress]:
        """Its failure, once."""
        if self._failure and not self._is_said:
            self._is_said = True
            yield Progress("warning", phase=phase, message=self._failure)


def tracked(progress: Generator[Progress], folder: Path) -> Generator[Progress]:
    """Pass on what a run says, and trace its epochs, what came of the test split, and how it ended.

    Closing it closes `progress`. What fails before the run is prepared leaves no trace.
    """
    followers: list[_Follower] = []
    last, status = -1, "FAILED"
    try:
        with closing(progress):
            for step in progress:
                told: list[_Told] = []
                if last < 0 and step.phase not in (None, "preparing"):
                    followers, told = _followers(folder), _history(folder)
                    last = told[-1].epoch if told else 0
                if step.kind == "epoch" and (step.epoch or 0) > last:
                    told.append(_measured(step))
                if step.kind == "done":
                    metrics, status = (step.result or {}).get("metrics", {}), "FINISHED"
                    told.append(_Told(metrics.get("best_epoch", 0), _numbers(metrics.get("test", {}), "test_"), is_epoch=False))
                for follower in followers:
                    for one in told:
                        follower.told.put(one)
                if step.kind == "done":
                    _end(followers, status)
                for follower in followers:
                    yield from follower.warnings(step.phase)
                yield step
    except (GeneratorExit, KeyboardInterrupt):
        status = "KILLED"
        raise
    finally:
        _end(followers, status)


def _followers(folder: Path) -> list[_Follower]:
    """The trackers of this machine: what is installed, and what MLflow's own variables ask for."""
    found = [_Follower("TensorBoard", lambda told: _to_tensorboard(told, folder))] if find_spec("tensorboard") else []
    if server := mlflow_server():
        found.append(_Follower("MLflow", lambda told: _to_mlflow(told, folder, *server)))
    for follower in found:
        follower.start()
    return found


def _to_tensorboard(told: _Follower, folder: Path) -> None:
    """RUN/tensorboard. Each attempt writes all epochs, and hides what earlier ones wrote."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder / "tensorboard"), purge_step=0) as writer:
        for one in told:
            for name, value in one.values.items():
                split, _, measure = re.sub(r"^(train_eval|train|val|test)_", r"\1/", name).rpartition("/")
                writer.add_scalar(f"{measure}/{split}" if split else measure, value, one.epoch)
            writer.flush()


def _to_mlflow(told: _Follower, folder: Path, uri: str, experiment: str) -> None:
    """One MLflow run, whatever the number of attempts; its metric `epoch` says how far it is."""
    try:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param, RunTag
    except ImportError as error:
        raise ImportError("MLFLOW_TRACKING_URI is set and its client is not installed: pip install 'catdog[track]'") from error
    client, note = MlflowClient(tracking_uri=uri), folder / "mlflow.json"
    if note.exists():
        run = client.get_run(json.loads(note.read_text())["run_id"])
        client.update_run(run.info.run_id, status="RUNNING")
    else:
        found = client.get_experiment_by_name(experiment)
        run = client.create_run(found.experiment_id if found else client.create_experiment(experiment), run_name=folder.resolve().name)
        with write_atomically(note) as unfinished:
            unfinished.write_text(json.dumps({"run_id": run.info.run_id}))
    params = _flat(TrainConfig.read(folder).model_dump(mode="json"))
    dataset = json.loads((folder / "dataset.json").read_text())
    tags = {"version": __version__, "dataset": dataset["id"], "fingerprint": dataset["fingerprint"]}
    client.log_batch(
        run.info.run_id, params=[Param(name, value) for name, value in params.items() if name not in run.data.params],
        tags=[RunTag(f"catdog.{name}", value) for name, value in tags.items()],
    )
    for one in told:
        if not one.is_epoch or one.epoch > run.data.metrics.get("epoch", 0):
            values = one.values | ({"epoch": float(one.epoch)} if one.is_epoch else {})  # last, so that where it is the others are too
            now = int(1000 * time.time())
            client.log_batch(run.info.run_id, [Metric(name, value, now, one.epoch) for name, value in values.items()])
    client.set_terminated(run.info.run_id, told.status)


def _history(folder: Path) -> list[_Told]:
    """The epochs that earlier attempts wrote into metrics.jsonl, each once; not the line that a kill cut short."""
    path, told = folder / "metrics.jsonl", {}
    for line in path.read_bytes().splitlines() if path.exists() else ():
        with suppress(ValueError):
            one = _measured(Progress.from_json(line))
            told[one.epoch] = one
    return sorted(told.values())


def _measured(step: Progress) -> _Told:
    return _Told(step.epoch or 0, _numbers({name: value for name, value in asdict(step).items() if name not in _NOT_MEASURED}))


def _numbers(fields: Mapping[str, Any], before: str = "") -> dict[str, float]:
    return {f"{before}{name}": number for name, value in fields.items() if (number := finite(value)) is not None}


def _flat(fields: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """A config as names and short strings, such as publish.alias."""
    flat: dict[str, str] = {}
    for name, value in fields.items():
        flat |= _flat(value, f"{above}{name}.") if isinstance(value, dict) else {above + name: str(value)[:MAX_PARAM_LETTERS]}
    return flat


def _end(followers: Iterable[_Follower], status: str) -> None:
    """Say how the run ended, if nobody has, and wait for all of them together."""
    ending = [follower for follower in followers if follower.status == "RUNNING"]
    until = time.monotonic() + WAIT_SECONDS
    for follower in ending:
        follower.status = status
        follower.told.put(None)
    for follower in ending:
        follower.wait(max(0.0, until - time.monotonic()))
