"""The healthy zoo, as far as seconds reach: nobody is accused, everybody leaves as it came. `make zoo` looks at all."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from catdog.doctor import Culprit, Finding, Patient, Report
from catdog.doctor.examination import examination
from tests.mutations.zoo import __main__ as program
from tests.mutations.zoo import runs
from tests.mutations.zoo.healthy import Healthy, Small, healthy, patient, small_batch
from tests.mutations.zoo.menagerie import CONFIGURATIONS
from tests.mutations.zoo.networks import networks
from tests.mutations.zoo.runs import Row, Run, row_of
from tests.mutations.zoo.table import errors, warned

QUICK = [pytest.param(one, id=one.name) for one in CONFIGURATIONS if one.quick]


@pytest.fixture(autouse=True)
def alone(one_thread: None) -> None:
    """Small tensors."""


@pytest.mark.parametrize("configuration", QUICK)
def test_nobody_healthy_is_accused(configuration: Healthy) -> None:
    row = row_of(Run(configuration, seed=0))
    assert not errors(row), "\n".join(errors(row))
    assert row["equal"]
    assert not [one for one in warned(row) if "own failure" in one.message]


def test_all_42_of_the_catalogue_are_there_and_every_network() -> None:
    numbers = {int(one.name.split()[0].rstrip("b")) for one in CONFIGURATIONS if one.name[0].isdigit()}
    assert numbers == set(range(1, 43))
    names = [one.name for one in (*CONFIGURATIONS, *networks())]
    assert len(names) == len(set(names))
    assert 4 * len(CONFIGURATIONS) + len(networks()) >= 300


@healthy("a quiet one", "none")
def quiet(seed: int) -> Patient:
    return patient(Small(), small_batch(seed))


@healthy("one that cannot be made", "none")
def broken(seed: int) -> Patient:
    raise RuntimeError("Expected.")


@examination("T98", "an accusation", catches="everybody")
def accusing(patient: Patient) -> Iterator[Finding]:
    yield Finding("T98", "error", "It is healthy", Culprit("it"))


@examination("T97", "a warning", catches="everybody")
def warning(patient: Patient) -> Iterator[Finding]:
    yield Finding("T97", "warning", "It is healthy", Culprit("it"))


def changing(patient: Patient, *_: object, **__: object) -> Report:
    patient.model.eval()
    return Report()


def test_an_accusation_a_failure_and_a_change_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "EXAMINATIONS", (warning,))
    assert not errors(row_of(Run(quiet, 0)))
    assert len(warned(row_of(Run(quiet, 0)))) == 1
    assert not warned(row_of(Run(healthy("allowed", "none", allowed=("T97",))(quiet.make), 0)))
    assert "RuntimeError: Expected." in errors(row_of(Run(broken, 0)))[0]
    monkeypatch.setattr(runs, "EXAMINATIONS", (accusing,))
    assert "T98 It is healthy" in errors(row_of(Run(quiet, 0)))[0]
    monkeypatch.setattr(runs, "visit", changing)
    assert errors(row_of(Run(quiet, 0))) == ["The patient did not leave as it came."]


def test_a_seed_gives_the_same_patient() -> None:
    first, second = ({**row_of(Run(quiet, 3)), "seconds": 0, "processor": 0, "made": 0} for _ in range(2))
    assert first == second


def test_what_was_broken_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    made: list[tuple[str, int]] = []

    def counted(run: Run, *, budget: float) -> Row:
        made.append(run.key)
        return row_of(run, budget=budget)

    monkeypatch.setattr(program, "CONFIGURATIONS", (quiet, broken))
    monkeypatch.setattr(program, "row_of", counted)
    file = tmp_path / "rows.jsonl"
    assert program.main(["--only", "quiet", "--seeds", "1", "--out", str(file)]) == 0
    assert program.main(["--only", "quiet", "--seeds", "2", "--out", str(file)]) == 0
    assert made == [("a quiet one", 0), ("a quiet one", 1)]
    assert program.main(["--seeds", "2", "--out", str(file), "--shard", "2/2"]) == 1
    assert made[2:] == [("one that cannot be made", 1)]
    rows = [json.loads(line) | {"version": "another"} for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert program.main(["--only", "quiet", "--seeds", "1", "--out", str(file)]) == 0
    assert made[3:] == [("a quiet one", 0)]
    assert program.main(["--only", "nobody", "--out", str(file)]) == 2
    assert "RuntimeError: Expected." in capsys.readouterr().out
