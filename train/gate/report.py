"""The gate's report, as it is written and as it is printed."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from serve.config import FrozenModel
from train.config.sections import GateSection
from train.gate.guards import Check
from train.statistics.comparison import Accuracy, AccuracyVerdict, promotes


class BundleInfo(FrozenModel):
    """A bundle that was scored, and how it was run."""

    path: str
    """Directory."""

    version: str
    """Version of the bundle."""

    backend: str
    """Backend that ran it: onnx or torch."""

    precision: str
    """Precision: int8, bf16 or fp32."""

    device: str
    """Device it ran on: cpu or cuda."""


class Power(FrozenModel):
    """Power of comparing two single bundles, at this sample size and disagreement."""

    gain: float
    """True difference of accuracy, candidate minus champion."""

    power: float
    """Probability of the required verdict, guards excluded."""

    rows_needed: int | None
    """Approximate number of rows for a power of 0.8; None if no number is enough."""


class GateReport(FrozenModel):
    """Whether the candidate may replace the champion, and why."""

    passed: bool
    """Whether the verdict satisfies the requirement and no guard refuses."""

    verdict: AccuracyVerdict
    """Verdict on accuracy alone."""

    reasons: tuple[str, ...]
    """Why the candidate was refused, or why it passed."""

    accuracy: Accuracy
    """The figures behind the verdict."""

    checks: tuple[Check, ...]
    """Results of the guards."""

    power: tuple[Power, ...]
    """Power of this test set, by true gain."""

    minimum_detectable: float | None
    """Minimum detectable gain at power 0.8; None over 0.5."""

    rows: int
    """Number of test rows."""

    settings: GateSection
    """The `gate` section that was applied."""

    candidates: tuple[BundleInfo, ...] = ()
    """The candidate, or its seeds."""

    champions: tuple[BundleInfo, ...] = ()
    """The champion, or its seeds."""

    new_labels: tuple[str, ...] = ()
    """Labels that only the candidate knows; the rows compared are those of the other labels."""

    renamed: dict[str, str] = Field(default_factory=dict)
    """The candidate's names of the champion's labels that have another one."""

    test: dict[str, Any] = Field(default_factory=dict)
    """Number and SHA-256 of the test rows."""

    created: str = ""
    """Time of the comparison, ISO 8601, UTC."""


def verdict_sentence(report: GateReport) -> str:
    """State in one sentence why the candidate passes or does not."""
    section, accuracy = report.settings, report.accuracy
    points = f"{100 * accuracy.difference:+.1f} points, {100 * accuracy.low:+.1f} to "
    points += f"{100 * accuracy.high:+.1f}"
    if report.passed:
        better = "its accuracy is significantly better"
        if report.verdict != "superior":
            better = f"its accuracy is less than {100 * section.margin:g} points lower, if at all"
        return f"{better} ({points}), and no guard refuses."
    refusing = [check for check in report.checks if not check.passed]
    said = []
    if any(check.name == "test rows" for check in refusing):
        said.append(
            f"{report.rows:,} test rows are too few, {section.min_test_rows:,} are required"
        )
    elif not promotes(report.verdict, section.require):
        said.append(
            {
                "inferior": f"its accuracy is significantly worse ({points})",
                "non_inferior": f"its accuracy is not significantly better ({points})",
            }.get(report.verdict, f"its accuracy may be worse, or better ({points})")
        )
    guards = [check.name for check in refusing if check.name != "test rows"]
    if guards:
        said.append(f"refused by {len(guards)} of {len(report.checks)} guards: {', '.join(guards)}")
    return f"{'; '.join(said)}."


def to_text(report: GateReport) -> str:
    """Format the report for the console: the decision, what refuses, then the figures."""
    accuracy, section = report.accuracy, report.settings
    names = [" ".join(each.version for each in side) or "-"
             for side in (report.candidates, report.champions)]  # fmt: skip
    kinds = {f"{each.backend} {each.precision} on {each.device}"
             for each in (*report.candidates, *report.champions)}  # fmt: skip
    lines = [f"{'PASSED' if report.passed else 'NOT PASSED'}: {verdict_sentence(report)}"]
    if not report.passed:
        lines += [f"  - {reason}" for reason in report.reasons]
    lines += [
        f"candidate {names[0]} against champion {names[1]}, {report.rows:,} test rows, "
        f"{' and '.join(sorted(kinds)) or 'given predictions'}",
        *_label_lines(report),
        f"accuracy {accuracy.candidate:.4f}, champion {accuracy.champion:.4f}, "
        f"difference {accuracy.interval:+.4f} (one-sided error {section.alpha})",
        f"only the candidate correct: {accuracy.gained:.2%}; only the champion correct: "
        f"{accuracy.lost:.2%}",
        f"verdict {report.verdict}, required {section.require}",
    ]
    lines += [f"ok {check.name}: {check.detail}" for check in report.checks if check.passed]
    if report.minimum_detectable is not None:
        lines.append(
            "smallest gain that these rows show with probability 0.8: "
            f"{report.minimum_detectable:+.4f}"
        )
    return "\n".join(lines)


def _label_lines(report: GateReport) -> list[str]:
    lines = []
    if report.renamed:
        names = ", ".join(f"{old} -> {new}" for old, new in report.renamed.items())
        lines.append(f"renamed: {names}")
    if report.new_labels:
        lines.append(
            f"new labels: {', '.join(report.new_labels)}; they are judged by floors, everything "
            "else on the rows whose labels both know"
        )
    return lines
