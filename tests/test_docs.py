"""The README is true: its blocks run, its tree is the tree, its settings and commands exist."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from catdog.settings import Settings
from tests.living import LiveStack, command_line

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
FIRST, PREPARE, MAIN_JOB, ASKING = BLOCKS


def test_the_two_commands_are_targets_that_make_knows() -> None:
    for line in FIRST.splitlines():
        command, target = line.split()[:2]
        assert command == "make"
        done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_main_job_by_hand_and_what_is_asked_then(stack: LiveStack, tmp_path: Path) -> None:
    """The blocks as printed, in a shell, against a living stack."""
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    assert sum(line.count("curl") for line in MAIN_JOB.splitlines()) == 6
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{PREPARE}{MAIN_JOB}echo THEN\n{ASKING}"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=500,
        env={
            "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "CATDOG": stack.address,
            "CATDOG_DATA_DIR": str(stack.settings.root),
        },
    )
    assert done.returncode == 0, done.stderr
    job, _, asked = done.stdout.partition("THEN\n")
    assert '"state":"ready"' in job
    assert '"succeeded"' in job
    answer = job.rpartition('{"prediction_id"')[2]
    assert '"label":"cat"' in answer or '"label":"dog"' in answer
    assert '"answered":2,"refused":0' in asked and '"kind":"predict"' in asked and '"passed":true' in asked, asked
    assert "answered: " in asked and (tmp_path / "answers" / "artifacts" / "predictions.csv").exists()


def test_the_tree_names_every_file_of_the_library_and_nothing_else() -> None:
    tree = README.partition("catdog/             the library")[2].partition("service/            HTTP")[0]
    named = set(re.findall(r"\b([a-z_]+\.py)\b", tree))
    there = {path.name for path in (ROOT / "catdog").glob("*.py") if not path.name.startswith("__")}
    details = {"downloads.py", "scenery.py", "torchvision_catalogue.py"}  # parts of the file they are imported by
    assert named == there - details


def test_every_variable_it_mentions_is_a_setting() -> None:
    for name in re.findall(r"CATDOG_[A-Z_]+", README):
        assert name.removeprefix("CATDOG_").lower() in Settings.model_fields, name


COMMANDS = (
    "", "up", "train", "run", "predict", "data draw", "data import", "data fetch", "data report", "data sheet", "models list",
    "models fetch", "models judge", "models versions", "models history", "models promote", "models rollback", "doctor", "doctor system",
    "config", "demo",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(stack: LiveStack, command: str) -> None:
    done = command_line(*command.split(), "--help", settings=stack.settings)
    assert done.returncode == 0 and "Usage" in done.stdout and len(done.stdout) > 200
