"""A run killed with -9 at any moment of its training and started again ends with the weights of one that was left alone, bit for bit.

Three kills in `make test`, fifty in `make test-long`.
"""

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from catdog.config import TrainConfig
from catdog.files import sha256_of
from catdog.progress import Progress
from catdog.settings import Settings
from tests.living import Finished

KILLS = 50
QUICK = 3
EPOCHS = 3
# Batch statistics, dropout, varied pictures, an average, micro-batches, a ragged last batch, and checkpoints inside the epochs.
FIELDS = {
    "model": "mobilenet_v3_small", "weights": "none", "image_size": 32, "epochs": EPOCHS, "batch_size": 5, "micro_batch": 3, "ema": 0.9,
    "augment": "default", "balance": "sampler", "head_epochs": 1, "layer_decay": 0.9, "clip_norm": 1.0, "save_steps": 2, "warmup_steps": 3,
}
# A run that ends when its training has, and that kills itself some moment after a step: in the next one, or while it saves or measures.
DRIVER = """
import os, signal, sys, threading
from pathlib import Path
from catdog.settings import Settings, wait_passively
wait_passively()
from catdog import run
folder, fence, step, delay = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
for progress in run.run(folder, Settings.load(secrets=False), fence=fence):
    if progress.phase == "testing":
        break
    if progress.phase == "training":
        print(progress.to_json(), flush=True)
        if progress.kind == "step" and progress.step == step:
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
            step = -1
"""


def train(folder: Path, settings: Settings, *, fence: int, kill_after: int = -1, delay: float = 0) -> tuple[int, list[Progress]]:
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(folder), str(fence), str(kill_after), str(delay)], stdout=subprocess.PIPE, check=False,
        env=settings.run_environment(), cwd=Path(__file__).parent.parent.parent,
    )
    return done.returncode, [Progress.from_json(line) for line in done.stdout.splitlines(keepends=True) if line.endswith(b"\n")]


def last_weights(folder: Path) -> dict[str, str]:
    """The digests of what the last checkpoint holds: weights, average and moments, all of them."""
    newest = max((folder / "checkpoints").glob("*/step-*/MANIFEST.json"), key=lambda path: path.parent.name).parent
    with safe_open(newest / "optimizer.safetensors", "np") as file:
        assert any(name.endswith("exp_avg") for name in file.keys())  # noqa: SIM118 - it is no mapping
    return {"step": newest.name} | {path.name: sha256_of(path) for path in newest.glob("*.safetensors")}


def begin(folder: Path, finished: Finished) -> Path:
    TrainConfig.parse({"dataset": TrainConfig.read(finished.run).dataset, **FIELDS}).write(folder)
    return folder


@pytest.fixture(scope="module")
def whole(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, str]]:
    """How many steps an undisturbed run makes, and what it ends with."""
    folder = begin(tmp_path_factory.mktemp("whole") / "run", finished)
    status, said = train(folder, finished.settings, fence=1)
    assert status == 0 and [p.epoch for p in said if p.kind == "epoch"] == list(range(1, EPOCHS + 1))
    return max(p.step or 0 for p in said), last_weights(folder)


@pytest.mark.parametrize("kill", [pytest.param(kill, marks=[] if kill < QUICK else pytest.mark.long) for kill in range(KILLS)])
def test_a_run_killed_at_any_moment_ends_with_the_same_bits(
    finished: Finished, whole: tuple[int, dict[str, str]], tmp_path: Path, kill: int,
) -> None:
    steps, expected = whole
    chance = random.Random(kill)
    folder, at, delay = begin(tmp_path / "run", finished), chance.randint(1, steps - 1), chance.uniform(0, 0.2)
    status, first = train(folder, finished.settings, fence=1, kill_after=at, delay=delay)
    assert status == -signal.SIGKILL, "it was killed"
    assert max(p.step or 0 for p in first) < steps or not any(p.kind == "epoch" and p.epoch == EPOCHS for p in first)
    status, second = train(folder, finished.settings, fence=2)
    assert status == 0
    resumed = min((p.step or 0 for p in second if p.learning_rate), default=steps + 1) - 1
    print(f"killed {delay * 1000:.0f} ms after step {at} of {steps}, resumed after step {resumed}")  # noqa: T201
    assert last_weights(folder) == expected
