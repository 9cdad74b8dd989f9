"""table, errors: what the rows of the zoo say together."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from catdog.doctor import Finding
from tests.mutations.zoo.runs import BUDGET

WARNINGS = 0.5
"""A healthy run, at most."""


def errors(row: Mapping[str, Any]) -> list[str]:
    """Everything that may not be: accusations, a visit that raised, a patient that was changed."""
    said = [str(one) for one in _findings(row, "error")]
    said += [row["raised"]] if "raised" in row else []
    return said if row.get("equal", True) else [*said, "The patient did not leave as it came."]


def warned(row: Mapping[str, Any]) -> list[Finding]:
    """The warnings that nobody has allowed."""
    return [one for one in _findings(row, "warning") if one.code not in row["allowed"]]


def _findings(row: Mapping[str, Any], severity: str) -> list[Finding]:
    found = map(Finding.from_dict, row.get("findings", ()))
    return [one for one in found if one.severity == severity]


def table(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """What there is to see; every error in full, every kind of warning once."""
    seconds = [row["seconds"] for row in rows]
    accused = [row for row in rows if errors(row)]
    own = [one for row in rows for one in warned(row) if "own failure" in one.message]
    mean = sum(len(warned(row)) for row in rows) / max(1, len(rows))
    figures = Table(show_header=False)
    for name, figure in (
        ("configurations", len({row["name"] for row in rows})), ("runs", len(rows)),
        ("runs with an ERROR (must be 0)", len(accused)), (f"warnings a run (at most {WARNINGS})", f"{mean:.2f}"),
        ("failures of the doctor's own", len(own)),
        ("the same by hash before and after", f"{sum(row.get('equal', False) for row in rows)} of {len(rows)}"),
        ("seconds of the processor, median and most", _median_and_most([row["processor"] for row in rows if "processor" in row])),
        ("seconds, median and most", _median_and_most(seconds)),
        (f"runs over {BUDGET:.0f} s", sum(one > BUDGET for one in seconds)),
        ("runs that the budget cut short", sum("budget" in row.get("not_run", {}).values() for row in rows)),
    ):
        figures.add_row(name, str(figure))
    return Group(*_said_of_errors(accused), _said_of_warnings(rows), figures)


def _median_and_most(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds or [0]):.1f}, {max(seconds, default=0):.1f}"


def _said_of_errors(accused: Sequence[Mapping[str, Any]]) -> list[Text]:
    return [Text(f"{row['name']}, seed {row['seed']}\n{said}\n", "red") for row in accused for said in errors(row)]


def _said_of_warnings(rows: Sequence[Mapping[str, Any]]) -> Table:
    kinds = Table("code", "runs", "warning", "of whom", title="warnings that nobody has allowed")
    names: dict[tuple[str, str], Counter[str]] = {}
    for row in rows:
        for one in warned(row):
            names.setdefault((one.code, one.message), Counter())[row["name"]] += 1
    for (code, message), of in sorted(names.items(), key=lambda item: -item[1].total()):
        kinds.add_row(code, str(of.total()), message, ", ".join(name for name, _ in of.most_common(4)) + (" ..." if len(of) > 4 else ""))
    return kinds
