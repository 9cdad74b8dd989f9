"""judge, table: what the rows of a bench say, by mutant and by group."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.mutations import proof
from tests.mutations.mutants import GROUPS, Expectation, Mutant
from tests.mutations.runs import Run

_AT_LEAST = {"error": ("error",), "warning": ("error", "warning")}


@dataclass(frozen=True, slots=True)
class Judgement:
    """Of one mutant in one host with one seed, by one examiner."""

    mutant: Mutant
    host: str
    seed: int
    is_detected: bool
    """By an expected check, at least at the expected severity."""
    is_exact: bool
    """The first such finding names the culprit."""
    is_void: bool
    """The healthy twin is accused as well, or could not be looked at."""
    said: tuple[str, ...]
    """Codes of all errors and, marked by w, warnings."""
    cpu: float
    """Seconds of one core."""
    why: str
    """Why it is not detected, in a few words."""


def judge(run: Run, row: Mapping[str, Any], twin: Mapping[str, Any]) -> Judgement:
    """One run beside its healthy twin."""
    mutant = run.mutant
    if mutant is None:
        raise ValueError("Expected the run of a mutant. Received: a healthy one")
    findings = row.get("findings", [])
    matching = [one for one in findings if _is_expected(one, mutant.expect, run.examiner)]
    is_void = twin["outcome"] != "done" or bool(errors(twin))
    named = run.examiner == "doctor" and bool(matching) and bool(mutant.culprit(run.host).search(text_of(matching[0])))
    said = [one["code"] + ("w" if one["severity"] == "warning" else "") for one in findings if one["severity"] != "info"]
    why = row["outcome"] if row["outcome"] != "done" else "twin accused" if is_void and matching else ""
    not_made = {code: row.get("not_run", {}).get(code) for code in mutant.expect.checks}
    if not why and not matching:
        why = "; ".join(f"{code} not made: {reason}" for code, reason in not_made.items() if reason)
    return Judgement(
        mutant, run.host, run.seed, bool(matching), named, is_void, tuple(dict.fromkeys(said)), row.get("cpu", row["seconds"]), why,
    )


def errors(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The errors in a row."""
    return [one for one in row.get("findings", []) if one["severity"] == "error"]


def only(row: Mapping[str, Any], code: str) -> dict[str, Any]:
    """A row with the findings of one code."""
    return {**row, "findings": [one for one in row.get("findings", []) if one["code"] == code]}


def text_of(finding: Mapping[str, Any]) -> str:
    """What of a finding has to name the culprit: not the evidence, not the remedy."""
    return f"{finding['what']} {finding['where'] or ''} {finding['message']}"


def _is_expected(finding: Mapping[str, Any], expect: Expectation, examiner: str) -> bool:
    """Of others any alarm counts that is as loud as ours would have to be: they have no codes of ours."""
    return finding["severity"] in _AT_LEAST[expect.severity] and (examiner != "doctor" or finding["code"] in expect.checks)


def _all(judgements: Iterable[Judgement], holds: Callable[[Judgement], bool]) -> list[str]:
    """The ids of the mutants of which it holds in every host and with every seed."""
    held: dict[str, bool] = {}
    for one in judgements:
        held[one.mutant.id] = held.get(one.mutant.id, True) and holds(one)
    return [id_ for id_, holds_of_all in held.items() if holds_of_all]


def by_mutant(judgements: Sequence[Judgement]) -> str:
    """A line for each mutant and host."""
    lines = []
    for key in dict.fromkeys((one.mutant.id, one.host) for one in judgements):
        of = [one for one in judgements if (one.mutant.id, one.host) == key]
        state = "exact" if all(one.is_exact for one in of) else "found" if all(one.is_detected for one in of) else "MISSED"
        if any(one.is_void for one in of):
            state = "void"
        said = " ".join(dict.fromkeys(code for one in of for code in one.said)) or "nothing"
        why = "; ".join(dict.fromkeys(one.why for one in of if one.why))
        expected = "/".join(of[0].mutant.expect.checks)
        lines.append(f"{key[0]:5} {key[1]}  {expected:8} {state:7} {_mean(of):5.1f} s  said: {said}{f'  ({why})' if why else ''}")
    return "\n".join(lines)


def by_group(judgements: Sequence[Judgement], twins: Sequence[Mapping[str, Any]]) -> str:
    """A line for each group, and one for all: a mutant counts if it does in every host and with every seed, beside a healthy twin."""
    lines = [f"{'':10} {'detected':>9} {'exact':>9} {'CPU s':>8}"]
    for group in (*GROUPS, "all"):
        of = [one for one in judgements if group in (one.mutant.group, "all")]
        count = len({one.mutant.id for one in of})
        detected = _all(of, lambda one: one.is_detected and not one.is_void)
        exact = _all(of, lambda one: one.is_exact and not one.is_void)
        if of:
            lines.append(f"{group:10} {len(detected):4}/{count:<4} {len(exact):4}/{count:<4} {_mean(of):8.1f}")
    return "\n".join([*lines, *_of_twins(twins)])


def _of_twins(twins: Sequence[Mapping[str, Any]]) -> list[str]:
    accused = [row for row in twins if row["outcome"] != "done" or errors(row)]
    warned = sum(one["severity"] == "warning" for row in twins for one in row.get("findings", []))
    lines = [f"healthy twins: {len(twins)} runs, {len(accused)} accused, {warned / max(1, len(twins)):.2f} warnings a run"]
    for row in accused:
        said = [f"{one['code']} {text_of(one)}" for one in errors(row)] or [f"{row['outcome']} {row.get('why', '')[-300:]}"]
        lines += [f"  {row['key']}: {line}" for line in said]
    return lines


def in_a_line(examiner: str, judgements: Sequence[Judgement], twins: Sequence[Mapping[str, Any]]) -> str:
    """Of an examiner that is not ours: any alarm counts as a detection, whatever it says."""
    count, done = len({one.mutant.id for one in judgements}), [row for row in twins if row["outcome"] == "done"]
    alarms = len(_all(judgements, lambda one: one.is_detected))
    valid = len(_all(judgements, lambda one: one.is_detected and not one.is_void))
    if not done:
        return f"{examiner:13} does not run: {twins[0].get('why', twins[0]['outcome']).strip().splitlines()[-1] if twins else 'no host'}"
    accused = sum(bool(errors(row)) for row in done)
    return (
        f"{examiner:13} alarms {alarms}/{count}, of them {valid} beside a twin that it lets pass; "
        f"{accused}/{len(done)} healthy twins accused, {_mean(judgements):.1f} CPU s"
    )


def _mean(judgements: Sequence[Judgement]) -> float:
    return sum(one.cpu for one in judgements) / max(1, len(judgements))


def of_proof(rows: Sequence[tuple[Run, Mapping[str, Any], Mapping[str, Any] | None]]) -> str:
    """A line for each mutant and host that does not count, and how many do."""
    wrong = [
        f"{run.mutant.id} {run.host} seed {run.seed}: {fault}" for run, row, twin in rows
        if run.mutant and (fault := proof.faults(row, twin, loud=run.mutant.loud))
    ]
    return "\n".join([*wrong, f"{len(rows) - len(wrong)} of {len(rows)} are silent and not equivalent"])
