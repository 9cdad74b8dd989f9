"""Severity, Culprit, Finding, Report: what the doctor has found, as text and as doctor.json."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from catdog.errors import Unhealthy

REPORT = "doctor.json"
Severity = Literal["error", "warning", "info"]
"""error: certainly wrong, the run is refused. warning: it runs, and somebody should look. info: worth knowing."""


@dataclass(frozen=True, slots=True)
class Culprit:
    """What is to blame, as exactly as it is known."""

    what: str
    """A module's path, a parameter, a picture's path, an argument: the name under which it is found in the user's own work."""
    where: str | None = None
    """file:line"""
    parameters: float | None = None
    """Its share of the trainable parameters, 0 to 1."""
    flops: float | None = None
    """Its share of the floating point operations of a forward pass, 0 to 1."""

    def __str__(self) -> str:
        shares = [f"{share:.1%} of the {of}" for share, of in ((self.parameters, "parameters"), (self.flops, "FLOPs")) if share is not None]
        return "  ".join(part for part in (self.what, self.where, ", ".join(shares)) if part)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that an examination has to say."""

    code: str
    """Of the examination: M01, L05, ..."""
    severity: Severity
    message: str
    """A sentence: what is wrong."""
    culprit: Culprit
    evidence: tuple[str, ...] = ()
    """Figures, each with what it is of."""
    remedy: str = ""

    def __str__(self) -> str:
        lines = [f"{self.severity.upper():7} {self.code} {self.message}", f"  culprit: {self.culprit}"]
        lines += [f"  evidence: {line}" for line in self.evidence]
        return "\n".join([*lines, f"  remedy: {self.remedy}"] if self.remedy else lines)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Read what to_dict of a report wrote."""
        return cls(**{**fields, "culprit": Culprit(**fields["culprit"]), "evidence": tuple(fields["evidence"])})


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a visit."""

    findings: tuple[Finding, ...] = ()
    passed: tuple[str, ...] = ()
    """Codes of the examinations that had nothing to say."""
    not_run: Mapping[str, str] = field(default_factory=dict)
    """By code of an examination: why it was not made. Never empty by silence: what the budget did not reach stands here too."""
    seconds: float = 0.0

    @property
    def errors(self) -> list[Finding]:
        """What the run is refused for."""
        return [finding for finding in self.findings if finding.severity == "error"]

    @property
    def warnings(self) -> list[Finding]:
        """What somebody should look at."""
        return [finding for finding in self.findings if finding.severity == "warning"]

    @property
    def codes(self) -> set[str]:
        """The examinations of which it says anything."""
        return {finding.code for finding in self.findings} | {*self.passed, *self.not_run}

    @property
    def is_healthy(self) -> bool:
        """Whether nothing is certainly wrong."""
        return not self.errors

    def raise_if_unhealthy(self) -> None:
        """For tests of a user's own project: fails with the whole report.

        Raises:
            Unhealthy: there is an error.
        """
        if self.errors:
            raise Unhealthy(f"Expected nothing that is certainly wrong. Received: {len(self.errors)} of it.\n{self}", report=self)

    def __add__(self, other: "Report") -> "Report":
        return Report(
            self.findings + other.findings, self.passed + other.passed, {**self.not_run, **other.not_run}, self.seconds + other.seconds,
        )

    def __str__(self) -> str:
        findings = sorted(self.findings, key=lambda finding: ("error", "warning", "info").index(finding.severity))
        lines = [str(finding) for finding in findings]
        lines.append(
            f"{len(self.errors)} errors, {len(self.warnings)} warnings, {len(self.passed)} examinations without a finding, "
            f"{len(self.not_run)} not made, {self.seconds:.1f} s"
        )
        for reason in dict.fromkeys(self.not_run.values()):
            lines.append(f"  not made ({reason}): " + " ".join(code for code, why in self.not_run.items() if why == reason))
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """As JSON: doctor.json of a run."""
        return {
            "healthy": self.is_healthy, "seconds": round(self.seconds, 2), "findings": [asdict(finding) for finding in self.findings],
            "passed": list(self.passed), "not_run": dict(self.not_run),
        }

    @classmethod
    def read(cls, run_folder: Path) -> Self | None:
        """The doctor.json of a run; None before there is one that can be read."""
        try:
            return cls.from_dict(json.loads((run_folder / REPORT).read_text()))
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return None

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Read what to_dict wrote."""
        findings: Iterable[Mapping[str, Any]] = fields["findings"]
        return cls(
            tuple(map(Finding.from_dict, findings)), passed=tuple(fields["passed"]), not_run=fields["not_run"], seconds=fields["seconds"],
        )
