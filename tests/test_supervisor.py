"""supervisor: what a run says is written down, what it does not say costs it the lease; with a real record and real child processes.

The children here are short Python programs in place of a training, so that every way to end can be had at once.
"""

import json
import os
import sys
import textwrap
from pathlib import Path
from typing import Any

import psutil
import pytest

from catdog.comparison import Comparison
from catdog.config import TrainConfig
from catdog.database import create_engine, migrate
from catdog.jobs import Claim, JobState, JobStore
from catdog.process import Identity
from catdog.registry import Registry
from catdog.settings import Settings
from worker.supervisor import Run, Supervisor

CONFIG = TrainConfig.parse({"dataset": "ds_" + "0" * 32, "model": "unet"}).model_dump(mode="json")
DONE: dict[str, Any] = {"kind": "done", "result": {"digest": "d" * 64, "labels": ["cat", "dog"], "metrics": {"test": {"accuracy": 1.0}}}}

SAY = """
    import json, os, signal, sys, time
    folder = sys.argv[1]
    def say(**fields): print(json.dumps(fields), flush=True)
"""


class Scripted(Supervisor):
    """A supervisor whose run is a given program."""

    program = ""

    def _command(self, _claim: Claim, folder: Path) -> list[str]:
        return [sys.executable, "-c", textwrap.dedent(SAY) + textwrap.dedent(self.program), str(folder)]


class Scene:
    def __init__(self, folder: Path, **settings: Any) -> None:
        self.settings = Settings.load(data_dir=folder, **{"heartbeat_seconds": 0.2, "stop_grace_seconds": 1, **settings})
        self.settings.make_folders()
        self.engine = create_engine(self.settings.database)
        migrate(self.engine)
        self.jobs, self.registry = JobStore(self.engine), Registry(self.engine)
        self.draining = False
        self.job_id = self.jobs.create(CONFIG)[0].id

    def publish(self) -> int:
        """A version; the first is the champion."""
        claim = self.jobs.claim(self.jobs.create(CONFIG)[0].id, Identity.of(os.getpid()))
        assert claim is not None
        digest = f"{len(self.registry.list()):064}"
        model = self.registry.publish(claim, digest=digest, labels=["cat", "dog"], metrics={}, alias="champion", promote="auto")
        assert model is not None
        return model.version

    def run(self, program: str) -> Any:
        supervisor = Scripted(self.settings, self.jobs, self.registry, draining=lambda: self.draining)
        supervisor.program = program
        supervisor.look_at(self.job_id)
        return self.jobs.get(self.job_id)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_a_run_that_is_done_is_published_once(tmp_path: Path, database_url: str) -> None:
    scene = Scene(tmp_path, database_url=database_url)
    done = DONE | {"result": {**DONE["result"], "stop_reason": "patience"}}
    job = scene.run(f"""
        os.mkdir(folder + "/package"); open(folder + "/package/package.json", "w").close()
        say(kind="phase", phase="preparing", result={{"device": {{"name": "cpu", "reason": "r", "threads": 1}}}})
        say(kind="step", phase="training", epoch=1, step=3, steps=9)
        say(kind="checkpoint", phase="training", step=3)
        say(**{done!r})
    """)
    assert job.state is JobState.SUCCEEDED and job.model == 1
    promotion = {"alias": "champion", "promoted": True, "champion": None}
    assert job.result == done["result"] | {"promotion": promotion}, "with the reason that it stopped for"
    assert job.device == {"name": "cpu", "reason": "r", "threads": 1}
    assert scene.registry.aliases() == {"champion": 1}
    assert (scene.settings.models / ("d" * 64) / "package.json").exists()
    kinds = [event.kind for event in scene.jobs.events(job.id)]
    assert kinds.count("checkpoint") == 1 and "step" not in kinds
    scene.run("raise SystemExit('a finished job must not be run again')")
    assert [model.version for model in scene.registry.list()] == [1]
    scene.engine.dispose()


def test_an_examination_that_is_done_succeeds_without_a_model(scene: Scene) -> None:
    scene.job_id = scene.jobs.create(CONFIG, kind="examine")[0].id
    job = scene.run('say(kind="done", result={"artifacts": ["contact_sheet.png"]})')
    assert (job.state, job.model, job.result) == (JobState.SUCCEEDED, None, {"artifacts": ["contact_sheet.png"]})
    assert scene.registry.list() == []


def train_again(scene: Scene, *, comparison: Comparison, champion_digest: str) -> Any:
    """A second training, whose run has compared its package with that of the champion."""
    scene.job_id = scene.jobs.create(CONFIG)[0].id
    compared = {"comparison": comparison.to_dict() | {"champion_digest": champion_digest}}
    done = DONE | {"result": {**DONE["result"], "digest": "e" * 64, **compared}}
    return scene.run(f"""
        os.mkdir(folder + "/package"); open(folder + "/package/package.json", "w").close()
        say(**{done!r})
    """)


@pytest.mark.parametrize(("comparison", "digest", "code"), [
    (Comparison(90, 5, 3, 2), "d" * 64, None), (Comparison(90, 0, 9, 1), "d" * 64, "not_promoted"),
    (Comparison(90, 5, 3, 2), "f" * 64, "compare_first"), (Comparison(9, 0, 0, 0), "d" * 64, "not_comparable"),
])
def test_what_a_run_has_compared_decides_whether_the_alias_moves(
    scene: Scene, comparison: Comparison, digest: str, code: str | None,
) -> None:
    scene.run(f"""
        os.mkdir(folder + "/package"); open(folder + "/package/package.json", "w").close()
        say(**{DONE!r})
    """)
    job = train_again(scene, comparison=comparison, champion_digest=digest)
    assert (job.state, job.model) == (JobState.SUCCEEDED, 2)
    assert job.result["promotion"].get("code") == code
    assert scene.registry.aliases() == {"champion": 1 if code else 2}


def test_a_comparison_is_kept_with_its_job(scene: Scene) -> None:
    versions = [scene.publish() for _ in range(2)]
    config = {"dataset": CONFIG["dataset"], "challenger": versions[1], "champion": versions[0]}
    scene.job_id = scene.jobs.create(config, kind="compare")[0].id
    comparison = Comparison(90, 5, 3, 2).to_dict()
    job = scene.run(f'say(kind="done", phase="comparing", result={{"comparison": {comparison!r}}})')
    assert (job.state, job.model, job.result) == (JobState.SUCCEEDED, None, {"comparison": comparison})
    assert scene.registry.set_alias("champion", versions[1], "better").how == "compared"


def test_a_run_is_told_whose_packages_it_compares(scene: Scene) -> None:
    """A training that shall be promoted: the champion of its alias. A comparison: both. An examination, or promote=never: nobody."""
    versions = [scene.publish() for _ in range(2)]
    packages = [str(scene.settings.models / scene.registry.get(version).digest) for version in versions]
    compare = {"dataset": CONFIG["dataset"], "challenger": versions[1], "champion": versions[0]}
    wanted: tuple[tuple[str, dict[str, Any], list[str]], ...] = (
        ("train", CONFIG, ["--champion", packages[0]]),
        ("train", CONFIG | {"publish": {"alias": "champion", "promote": "never"}}, []),
        ("train", CONFIG | {"publish": {"alias": "other", "promote": "auto"}}, []),
        ("examine", CONFIG, []),
        ("compare", compare, ["--challenger", packages[1], "--champion", packages[0]]),
    )
    for kind, config, told in wanted:
        job, _ = scene.jobs.create(config, kind=kind)
        assert commands_of(scene, job.id)[0][6:] == told, kind
        assert json.loads((scene.settings.runs / job.id / "config.json").read_text()) == config


def commands_of(scene: Scene, *job_ids: str) -> list[list[str]]:
    """What a supervisor would start for jobs, behind `python -m catdog`."""
    class Resting(Supervisor):
        def _command(self, claim: Claim, folder: Path) -> list[str]:
            commands.append(super()._command(claim, folder)[3:])
            return [sys.executable, "-c", ""]

    commands: list[list[str]] = []
    supervisor = Resting(scene.settings, scene.jobs, scene.registry, draining=lambda: False)
    for job_id in job_ids:
        supervisor.look_at(job_id)
    return commands


def test_a_resumed_job_is_told_the_folder_of_the_run_it_goes_on_from(scene: Scene) -> None:
    successor = scene.jobs.create(CONFIG, resumed_from=scene.job_id)[0].id
    first, second = commands_of(scene, scene.job_id, successor)
    runs = scene.settings.runs
    assert first == ["run", str(runs / scene.job_id), "--kind", "train", "--fence", "1"]
    assert second == ["run", str(runs / successor), "--kind", "train", "--fence", "1", "--resume-from", str(runs / scene.job_id)]


def test_a_failure_is_written_down_with_its_remedy(scene: Scene) -> None:
    job = scene.run('say(kind="failed", code="out_of_memory", message="too big", remedy="smaller"); sys.exit(1)')
    assert job.state is JobState.FAILED
    assert job.error == {"code": "out_of_memory", "message": "too big", "remedy": "smaller"}


def test_an_unknown_failure_code_is_internal(scene: Scene) -> None:
    assert scene.run('say(kind="failed", code="sadness", message="x"); sys.exit(1)').error["code"] == "internal"


@pytest.mark.parametrize("ending", ["os.kill(os.getpid(), signal.SIGKILL)", "sys.exit(1)", "os.abort()"])
def test_a_run_that_dies_is_queued_again_and_the_third_time_lost(scene: Scene, ending: str) -> None:
    assert scene.run(ending).state is JobState.QUEUED
    for _ in range(2):
        make_due(scene)
        job = scene.run(ending)
    assert job.state is JobState.FAILED and job.error["code"] == "worker_lost"
    assert "status" in job.error["message"]


def make_due(scene: Scene) -> None:
    """The back-off has passed."""
    with create_engine(scene.settings.database).begin() as connection:
        connection.exec_driver_sql("UPDATE jobs SET next_run_at = 0 WHERE state = 'queued'")


def test_a_device_error_is_worth_another_process(scene: Scene) -> None:
    assert scene.run('say(kind="failed", code="device_error", message="x"); sys.exit(76)').state is JobState.QUEUED


def test_what_is_no_progress_is_dropped_and_the_rest_is_heard(scene: Scene) -> None:
    job = scene.run("""
        print("hello"); print("{}"); print("x" * 200000); sys.stdout.flush()
        say(kind="failed", code="doctor", message="after the noise"); sys.exit(3)
    """)
    assert job.error["message"] == "after the noise"


def test_a_cancelled_run_is_asked_and_then_killed_with_its_children(scene: Scene) -> None:
    scene.run("sys.exit(1)")  # the job is queued again: cancelling it while it runs needs a running one
    make_due(scene)
    program = f"""
        import subprocess
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"])
        open({str(scene.settings.root / "pids")!r}, "w").write(f"{{os.getpid()}} {{child.pid}}")
        say(kind="phase", phase="training")
        time.sleep(600)
    """
    scene.jobs = CancelWhenHeard(create_engine(scene.settings.database))
    job = scene.run(program)
    assert job.state is JobState.CANCELLED
    for pid in (scene.settings.root / "pids").read_text().split():
        assert not psutil.pid_exists(int(pid)) or psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE


class CancelWhenHeard(JobStore):
    """A record whose user cancels as soon as the run has said something."""

    def report(self, claim: Claim, **fields: Any) -> bool | None:
        if fields.get("events"):
            self.request_cancel(claim.job_id)
        return super().report(claim, **fields)


def test_a_drained_run_is_queued_again_and_not_counted(scene: Scene) -> None:
    scene.draining = True
    job = scene.run('signal.signal(signal.SIGTERM, lambda *_: os._exit(75)); say(kind="phase", phase="training"); time.sleep(600)')
    assert job.state is JobState.QUEUED and job.attempt == 0


def test_a_run_beyond_its_time_fails_with_its_name(tmp_path: Path) -> None:
    job = Scene(tmp_path, time_limit_seconds=0.5).run('say(kind="phase", phase="training"); time.sleep(600)')
    assert job.state is JobState.FAILED and job.error["code"] == "time_limit"


def test_a_supervisor_whose_lease_is_taken_kills_its_run_and_publishes_nothing(scene: Scene) -> None:
    scene.jobs = Usurped(create_engine(scene.settings.database))
    job = scene.run(f"""
        open({str(scene.settings.root / "pid")!r}, "w").write(str(os.getpid()))
        os.mkdir(folder + "/package")
        say(kind="phase", phase="training")
        time.sleep(600)
    """)
    assert job.state is JobState.RUNNING and job.fence == 2, "the successor's claim stands"
    assert scene.registry.list() == []
    assert not psutil.pid_exists(int((scene.settings.root / "pid").read_text()))


class Usurped(JobStore):
    """A record in which somebody else takes the job over as soon as it is reported on."""

    def report(self, claim: Claim, **fields: Any) -> bool | None:
        (lease,) = self.leases()
        if lease.fence == claim.fence:
            self.expire(lease)
            assert self.claim(claim.job_id, Identity.of(os.getpid())) is not None
        return super().report(claim, **fields)


@pytest.mark.parametrize("job_id", ["", "job_" + "0" * 32, "../../etc", "x" * 10_000])
def test_a_message_about_nothing_is_dropped(scene: Scene, job_id: str) -> None:
    Supervisor(scene.settings, scene.jobs, scene.registry, draining=lambda: False).look_at(job_id)
    assert scene.jobs.get(scene.job_id).state is JobState.QUEUED


def test_lines_cut_anywhere_are_put_together() -> None:
    reading, writing = os.pipe()
    run = Run(child=None, pipe=reading)  # type: ignore[arg-type]
    line = json.dumps({"kind": "step", "step": 7}).encode() + b"\n"
    heard = []
    for at in range(len(line)):
        os.write(writing, line[at : at + 1])
        heard += run.read(1)
    assert [event.step for event in heard] == [7]
    os.close(writing)
    assert run.read(1) == [] and run.ended
    os.close(reading)


def test_the_run_is_told_nothing_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CATDOG_REDIS_URL", "redis://:hunter2@127.0.0.1")
    job = Scene(tmp_path).run("""
        message = " ".join(f"{k}={v}" for k, v in os.environ.items() if k.startswith("CATDOG"))
        say(kind="failed", code="doctor", message=message); sys.exit(3)
    """)
    assert "CATDOG_DATA_DIR" in job.error["message"]
    assert "hunter2" not in job.error["message"] and "REDIS" not in job.error["message"]


def test_a_run_that_cannot_be_started_is_tried_again_and_then_lost(scene: Scene) -> None:
    (scene.settings.runs / scene.job_id).write_text("a file where the run folder should be")
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    assert scene.run("").state is JobState.QUEUED
    for _ in range(2):
        make_due(scene)
        job = scene.run("")
    assert job.state is JobState.FAILED and "Expected a run that starts" in job.error["message"]
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors


def test_a_finished_run_whose_lease_was_taken_leaves_the_package_to_its_successor(scene: Scene) -> None:
    scene.jobs = Usurped(create_engine(scene.settings.database))
    scene.run(f"""
        os.mkdir(folder + "/package"); open(folder + "/package/package.json", "w").close()
        say(**{DONE!r})
    """)
    assert (scene.settings.runs / scene.job_id / "package").is_dir()
    assert list(scene.settings.models.iterdir()) == [] and scene.registry.list() == []


def test_a_run_that_is_done_counts_however_it_leaves(scene: Scene) -> None:
    job = scene.run(f"""
        os.mkdir(folder + "/package"); open(folder + "/package/package.json", "w").close()
        say(**{DONE!r}); sys.stdout.flush(); os.close(1); os.kill(os.getpid(), signal.SIGKILL)
    """)
    assert job.state is JobState.SUCCEEDED


@pytest.mark.parametrize("niceness", [0, 11])
def test_a_run_steps_back_as_far_as_the_settings_say(tmp_path: Path, niceness: int) -> None:
    scene = Scene(tmp_path, run_niceness=niceness)
    job = scene.run('say(kind="failed", code="internal", message=str(os.nice(0)), remedy="none")')
    assert job.error["message"] == str(min(os.nice(0) + niceness, 19))
    scene.engine.dispose()
