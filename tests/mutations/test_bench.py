"""The bench itself: every mutant gets into its hosts, a run is found again, parts have nothing in common, and the judge is strict."""

import ast
import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.mutations import pictures
from tests.mutations.mutants import GROUPS, HOSTS, PUBLIC, Change, Edit, Mutant, read_all, sources
from tests.mutations.runs import Run, runs_of
from tests.mutations.table import by_group, judge

MUTANTS = read_all(PUBLIC)
CASES = [(mutant, host) for mutant in MUTANTS for host in mutant.hosts]


@pytest.mark.parametrize(("mutant", "host"), CASES, ids=[f"{mutant.id}-{host}" for mutant, host in CASES])
def test_every_mutant_gets_into_its_hosts_and_is_python(mutant: Mutant, host: str) -> None:
    healthy, texts = sources(host), mutant.sources(host)
    for name, text in texts.items():
        ast.parse(text, name)
    changed = {name for name in texts if texts[name] != healthy[name]}
    assert changed == {edit.file for edit in mutant.edits}
    assert changed or mutant.pictures
    assert "no such line" not in mutant.culprit(host).pattern
    assert mutant.group in GROUPS and set(mutant.hosts) <= set(HOSTS)


def test_there_are_the_43_of_the_catalogue() -> None:
    assert [mutant.id for mutant in MUTANTS] == [f"P{number:02}" for number in range(1, 44)]


def test_an_anchor_that_is_there_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="exactly once"):
        Edit("a.py", "x", "y").apply("x = x")


def test_pictures_are_changed_as_the_mutant_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "COUNTS", {"train": 40, "val": 12})
    folder = pictures.draw("mixed", tmp_path)
    Change("rename", "train", 5, label="dog", name="{stem}-and-{other}").apply(folder, seed=0)
    Change("copy", "train", 4, into="val").apply(folder, seed=0)
    assert sum("dog-and-cat" in path.name for path in (folder / "train").iterdir()) == 5
    assert len(list((folder / "train").iterdir())) == 40
    assert sum("copy" in path.name for path in (folder / "val").iterdir()) == 4
    assert len(list((folder / "val").iterdir())) == 12


@pytest.mark.parametrize("of", [1, 2, 5])
def test_parts_are_everything_and_have_nothing_in_common(of: int) -> None:
    groups = runs_of(MUTANTS, hosts="URVC", seeds=2, examiner="doctor")
    parts = [[run.key for group in groups[number::of] for run in group] for number in range(of)]
    keys = [key for part in parts for key in part]
    assert len(keys) == len(set(keys))
    assert len([run for group in groups for run in group if run.mutant]) == 2 * len(CASES)
    assert all(group[0].mutant is None and {run.twin.key for run in group} == {group[0].key} for group in groups)


def _finding(code: str, severity: str, what: str = "", where: str | None = None) -> dict[str, Any]:
    return {"code": code, "severity": severity, "message": "", "what": what, "where": where}


def _row(*findings: dict[str, Any]) -> dict[str, Any]:
    return {"outcome": "done", "seconds": 1.0, "findings": findings, "key": ""}


DISCARDED = _finding("M01", "error", "UNet.down1..down4, UNet.up1..up4", "model.py:63")


@pytest.mark.parametrize(("findings", "twin", "detected", "exact", "void"), [
    ([DISCARDED], [], True, True, False),
    ([{**DISCARDED, "what": "UNet"}], [], True, False, False),
    ([{**DISCARDED, "severity": "warning"}], [], False, False, False),
    ([{**DISCARDED, "code": "M02"}], [], False, False, False),
    ([DISCARDED], [_finding("D01", "error")], True, True, True),
    ([DISCARDED], [_finding("D01", "warning")], True, True, False),
    ([], [], False, False, False),
])
def test_only_the_expected_check_counts_and_only_beside_a_healthy_twin(
    findings: list[dict[str, Any]], twin: list[dict[str, Any]], detected: bool, exact: bool, void: bool,
) -> None:
    run = Run("doctor", "U", 0, mutant=dataclasses.replace(MUTANTS[0]))
    judgement = judge(run, _row(*findings), _row(*twin))
    assert (judgement.is_detected, judgement.is_exact, judgement.is_void) == (detected, exact, void)
    counted = re.search(r"all +(\d)/1 +(\d)/1", by_group([judgement], [_row(*twin)]))
    assert counted and counted.groups() == (str(int(detected and not void)), str(int(exact and not void)))


def test_a_mutant_counts_only_if_all_its_seeds_do() -> None:
    runs = [Run("doctor", "U", seed, mutant=MUTANTS[0]) for seed in range(2)]
    judgements = [judge(runs[0], _row(DISCARDED), _row()), judge(runs[1], _row(), _row())]
    assert re.search(r"all +0/1 +0/1", by_group(judgements, []))


def test_the_bench_runs_goes_on_where_it_was_broken_off_and_says_what_came_of_it(tmp_path: Path) -> None:
    """Ruff looks at files only: a run of it takes no training."""
    out = tmp_path / "rows.jsonl"
    command = [
        sys.executable, "-m", "tests.mutations", "--only", "P01,P05,P15", "--hosts", "U", "--seeds", "1", "--examiner", "ruff",
        "--out", str(out),
    ]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = {row["mutant"]: row for row in map(json.loads, out.read_text().splitlines())}
    assert {name: (row["host"], row["outcome"]) for name, row in rows.items()} == dict.fromkeys((None, "P01", "P15"), ("U", "done"))
    assert "alarms 1/2, of them 1" in first.stdout and "0/1 healthy twins accused" in first.stdout

    kept = [json.dumps({**rows[name], "marked": True}) for name in (None, "P01")]
    out.write_text("\n".join([*kept, json.dumps(rows["P15"])[:40]]))  # killed while it wrote the third
    second = subprocess.run(command, capture_output=True, text=True, check=True)
    again = {row["mutant"]: "marked" in row for row in map(json.loads, out.read_text().splitlines())}
    assert again == {None: True, "P01": True, "P15": False}
    assert "alarms 1/2" in second.stdout
