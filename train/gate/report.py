"""The gate's report, as it is written and as it is printed."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from serve.config import FrozenModel
from train.config.sections import GateSection
from train.gate.guards import Check
from train.statistics.comparison import Accuracy, AccuracyVerdict


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


def to_text(report: GateReport) -> str:
    """Format the report for people."""
    accuracy, section = report.accuracy, report.settings
    names = [" ".join(each.version for each in side) or "-"
             for side in (report.candidates, report.champions)]  # fmt: skip
    kinds = {f"{each.backend} {each.precision} on {each.device}"
             for each in (*report.candidates, *report.champions)}  # fmt: skip
    lines = [
        f"candidate {names[0]} against champion {names[1]}",
        f"on {report.rows:,} test rows, by {' and '.join(sorted(kinds)) or 'given predictions'}",
        *_label_lines(report),
        f"accuracy     {accuracy.candidate:.4f}, champion {accuracy.champion:.4f}, "
        f"difference {accuracy.interval:+.4f}",
        f"  only the candidate correct: {accuracy.gained:.2%}; only the champion correct: "
        f"{accuracy.lost:.2%}",
        f"  one-sided error {section.alpha}; it covers {accuracy.covers}",
        f"verdict      {report.verdict} (required: {section.require})",
    ]
    lines += [
        f"{'ok     ' if check.passed else 'REFUSED'}      {check.name}: {check.detail}"
        for check in report.checks
    ]
    lines.append("power at this sample size and disagreement (guards excluded):")
    for each in report.power:
        rows = (
            "no number of rows is" if each.rows_needed is None else f"{each.rows_needed:,} rows are"
        )
        lines.append(f"  true gain {each.gain:+.2f}: {each.power:.3f}; {rows} enough for 0.8")
    if report.minimum_detectable is not None:
        lines.append(f"  minimum detectable gain at power 0.8: {report.minimum_detectable:+.4f}")
    lines.append("PASSED" if report.passed else "NOT PASSED")
    return "\n".join([*lines, *(f"  - {reason}" for reason in report.reasons)])


def _label_lines(report: GateReport) -> list[str]:
    lines = []
    if report.renamed:
        names = ", ".join(f"{old} -> {new}" for old, new in report.renamed.items())
        lines.append(f"renamed      {names}")
    if report.new_labels:
        lines.append(
            f"new labels   {', '.join(report.new_labels)}: judged by floors; everything else is "
            "compared on the rows whose labels both know"
        )
    return lines
