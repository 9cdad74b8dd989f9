"""ranks: two processes train together as one would, and stop together."""

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from catdog.config import TrainConfig
from catdog.doctor import gate
from catdog.doctor.findings import Report
from catdog.errors import RankFailed
from catdog.progress import Progress
from catdog.ranks import ALONE, Ranks, spread
from tests.living import Finished

# A network without batch statistics and dropout: there two processes must do what one does. Run by torchrun, with the folder to write to.
GOLDEN = """
import sys, json
from contextlib import nullcontext
from pathlib import Path
import torch
from torch import distributed, nn
from catdog import checkpoints, loop, ranks
from catdog.loaders import Splits
from catdog.ranks import ALONE
from tests.test_loop import TinyNet, config, split

folder, micro_batch = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
torch.manual_seed(0)
net = TinyNet()
net.backbone[1], net.backbone[5] = nn.Identity(), nn.Identity()
fields = {"batch_size": 6, "label_smoothing": 0.1, "clip_norm": 0.5, "ema": 0.9, "balance": "weighted"}
if micro_batch:
    fields["micro_batch"] = micro_batch
said = []
with ranks.join("cpu") if distributed.is_torchelastic_launched() else nullcontext(ALONE) as joined:
    splits = Splits(split(17, 1), split(7, 2), split(5, 3))
    for progress in loop.train(net, splits, config(**fields), labels=2, device="cpu", folder=folder / "checkpoints", ranks=joined):
        if progress.kind in ("epoch", "failed") and joined.is_first:
            said.append(json.loads(progress.to_json()))
    if joined.is_first:
        (folder / "epochs.json").write_text(json.dumps(said))
"""

# With batch statistics, dropout, an average and pairs of images: all that a resumed rank must find again.
RESUMED = """
import sys
from pathlib import Path
import torch
from torch import distributed
from catdog import loop, ranks
from catdog.loaders import Splits
from tests.test_loop import config, is_step, network, split

torch.set_num_threads(1)
fields = {"batch_size": 6, "clip_norm": 0.5, "ema": 0.9, "balance": "sampler", "mixup": 0.3, "head_epochs": 1}
with ranks.join("cpu") as joined:

    def train(folder, *, fence, seed, until=None):
        net, made = network(seed), []
        splits = Splits(split(17, 1), split(7, 2), split(5, 3))
        run = loop.train(net, splits, config(**fields), labels=2, device="cpu", folder=folder, fence=fence, ranks=joined)
        for progress in run:
            if is_step(progress):
                made.append(progress.step)
                if progress.step == until:
                    run.close()
        distributed.barrier()  # what the first has saved is there for all
        return net.state_dict(), made

    whole, made = train(Path(sys.argv[1], "whole"), fence=1, seed=0)
    assert made == list(range(1, 10)), made
    for stop in (1, 4, 6):
        folder = Path(sys.argv[1], f"after-{stop}")
        train(folder, fence=1, seed=0, until=stop)
        resumed, made = train(folder, fence=2, seed=77 + joined.rank)
        assert made == list(range(stop + 1, 10)), made
        assert all(torch.equal(value, resumed[name]) for name, value in whole.items()), stop
        best, again = (loop.best(one).weights() for one in (folder.with_name("whole"), folder))
        assert all(torch.equal(value, again[name]) for name, value in best.items()), stop
"""


def launch(program: str, folder: Path, *arguments: str, ranks: int) -> None:
    """Run a program, which is told `folder`, in so many processes, and see that all went well."""
    folder.mkdir()
    (folder / "program.py").write_text(program)
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", f"--log-dir={folder}"] if ranks > 1 else []
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, *torchrun, str(folder / "program.py"), str(folder), *arguments], cwd=root, capture_output=True, text=True,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"}, check=False,
    )
    assert done.returncode == 0, done.stderr


def train(folder: Path, *, ranks: int, micro_batch: int = 0) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    launch(GOLDEN, folder, str(micro_batch), ranks=ranks)
    newest = max((folder / "checkpoints" / "0").glob("step-*"))
    weights = {
        f"{name}/{key}": value for name in ("weights", "average") for key, value in load_file(newest / f"{name}.safetensors").items()
    }
    return json.loads((folder / "epochs.json").read_text()), weights


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    """What one process does."""
    return train(tmp_path_factory.mktemp("alone") / "one", ranks=1)


@pytest.mark.parametrize("micro_batch", [0, 2])
def test_two_processes_train_as_one_does(
    alone: tuple[list[dict[str, Any]], dict[str, torch.Tensor]], tmp_path: Path, micro_batch: int,
) -> None:
    """Ragged batches, ragged shards, a validation of seven for two: the same weights, averages and figures to 1e-5."""
    epochs, weights = alone
    shared_epochs, shared_weights = train(tmp_path / "two", ranks=2, micro_batch=micro_batch)
    assert len(epochs) == len(shared_epochs) == 3
    for one, other in zip(epochs, shared_epochs, strict=True):
        for name in one.keys() - {"train_seconds", "waited_seconds"}:
            assert other[name] == pytest.approx(one[name], abs=1e-5), name
    assert weights.keys() == shared_weights.keys()
    for name, value in weights.items():
        torch.testing.assert_close(shared_weights[name], value, rtol=0, atol=1e-5)


def test_two_processes_that_were_stopped_go_on_to_the_weights_of_two_that_were_not(tmp_path: Path) -> None:
    """Bit for bit, stopped inside an epoch and before its validation; the program compares."""
    launch(RESUMED, tmp_path / "two", ranks=2)
    assert len(list((tmp_path / "two").glob("after-*/*/step-*/MANIFEST.json"))) >= 3


@given(images=st.integers(0, 40), size=st.integers(1, 5))
def test_shards_are_parts_of_the_whole(images: int, size: int) -> None:
    shards = [Ranks(rank, size).shard(range(images)) for rank in range(size)]
    assert sorted(position for shard in shards for position in shard) == list(range(images))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    assert ALONE.shard(range(images)) == list(range(images))


@pytest.fixture
def several(finished: Finished, tmp_path: Path) -> Path:
    """The run folder of a job that two processes share."""
    fields = {**TrainConfig.read(finished.run).model_dump(), "devices": 2, "epochs": 2, "augment": "none"}
    TrainConfig.parse(fields).write(tmp_path / "run")
    return tmp_path / "run"


def start(folder: Path, finished: Finished) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "catdog", "run", str(folder), "--fence", "3"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=finished.settings.run_environment(),
    )


def test_a_job_of_two_devices_goes_all_the_way(several: Path, finished: Finished) -> None:
    with start(several, finished) as child:
        out, err = child.communicate(timeout=300)
    said = [Progress.from_json(line) for line in out.splitlines()]
    assert child.returncode == 0, err
    assert [p.epoch for p in said if p.kind == "epoch"] == [1, 2]
    assert said[-1].kind == "done" and (several / "package" / "package.json").exists()
    assert [json.loads(line)["epoch"] for line in (several / "metrics.jsonl").read_text().splitlines()] == [1, 2]


def test_where_several_machines_begin_with_rank_the_first_of_them_examines(
    several: Path, finished: Finished, monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in finished.settings.run_environment().items():
        monkeypatch.setenv(name, value)
    said = list(spread(["-m", "catdog", "rank", str(several)], size=2))
    report = Report.read(several)
    assert report is not None and report.codes >= gate.PREFLIGHT
    assert [p.epoch for p in said if p.kind == "epoch"] == [1, 2]


def test_a_job_of_two_devices_stops_with_a_checkpoint_and_leaves_nobody(several: Path, finished: Finished) -> None:
    TrainConfig.parse({**TrainConfig.read(several).model_dump(), "epochs": 500}).write(several)
    with start(several, finished) as child:
        assert child.stdout is not None
        lines = map(Progress.from_json, child.stdout)
        next(p for p in lines if p.phase == "training" and p.kind == "step")
        family = psutil.Process(child.pid).children(recursive=True)
        assert len(family) >= 3  # torchrun and two ranks
        child.send_signal(signal.SIGTERM)
        list(lines)
        assert child.wait(timeout=60) == 75
    assert not [one for one in psutil.wait_procs(family, timeout=60)[1] if one.status() != psutil.STATUS_ZOMBIE]
    assert list((several / "checkpoints" / "3").glob("step-*/MANIFEST.json"))


def test_ranks_do_not_outlive_a_run_that_was_killed(several: Path, finished: Finished) -> None:
    TrainConfig.parse({**TrainConfig.read(several).model_dump(), "epochs": 500}).write(several)
    with start(several, finished) as child:
        assert child.stdout is not None
        next(p for p in map(Progress.from_json, child.stdout) if p.phase == "training" and p.kind == "step")
        family = psutil.Process(child.pid).children(recursive=True)
        child.kill()
    assert not [one for one in psutil.wait_procs(family, timeout=60)[1] if one.status() != psutil.STATUS_ZOMBIE]


def test_what_the_first_says_of_its_failure_is_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    program = tmp_path / "failing.py"
    failed = Progress("failed", code="out_of_memory", message="no room", remedy="less").to_json()
    echo = Progress("failed", code="internal", message="Connection reset by peer").to_json()  # of a rank that is left alone
    program.write_text(f"print({failed!r}, {echo!r}, sep='\\n', flush=True)\nraise SystemExit(1)")
    with pytest.raises(RankFailed, match="no room") as caught:
        list(spread([str(program)], size=1))
    assert (caught.value.code, caught.value.remedy) == ("out_of_memory", "less")
    program.write_text("raise SystemExit(1)")
    with pytest.raises(RankFailed, match="one that died"):
        list(spread([str(program)], size=1))
    assert not list(temporary.iterdir())
