"""What the gate says: the report as it is written, and as it is printed."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from serve.config import FrozenModel
from train.config.sections import GateSection
from train.gate.guards import Check
from train.statistics.comparison import Verdict


class BundleInfo(FrozenModel):
    """A bundle that was scored, and what ran it."""

    path: str
    """Directory."""

    version: str
    """Version of the bundle."""

    backend: str
    """What ran it: onnx or torch."""

    precision: str
    """Number format: int8, bf16 or fp32."""

    device: str
    """Where it ran: cpu or cuda."""


class Accuracy(FrozenModel):
    """Accuracy of both, and what is known of the difference."""

    champion: float
    """Of the champion, a fraction; over seeds the mean."""

    candidate: float
    """Of the candidate."""

    difference: float
    """Candidate minus champion."""

    low: float
    """Lower end of the interval of the difference, with error alpha on each side."""

    high: float
    """Upper end."""

    gained: float
    """Share of rows that the candidate alone gets right."""

    lost: float
    """Share of rows that the champion alone gets right."""

    p_superior: float
    """One-sided p-value of "the candidate is no better"."""

    p_inferior: float
    """One-sided p-value of "the candidate is no worse"."""

    covers: str
    """Which variation the error rate covers."""


class Power(FrozenModel):
    """How likely one bundle's true gain over one other is seen, on rows like these."""

    gain: float
    """True difference of accuracy, candidate minus champion."""

    power: float
    """Probability that the required verdict is reached, guards aside."""

    rows_needed: int | None
    """Rows at which it is reached with probability 0.8, about; None if never."""


class GateReport(FrozenModel):
    """May the candidate take the champion's place, and why."""

    passed: bool
    """Whether the verdict is what is required and no guard refuses."""

    verdict: Verdict
    """On accuracy alone."""

    reasons: tuple[str, ...]
    """Why it was refused, or what was shown."""

    accuracy: Accuracy
    """The figures behind the verdict."""

    checks: tuple[Check, ...]
    """What each guard found."""

    power: tuple[Power, ...]
    """What this test set can show."""

    minimum_detectable: float | None
    """The least true gain that is found to be one with probability 0.8; None over 0.5."""

    rows: int
    """Test rows."""

    settings: GateSection
    """The `gate` section that was applied."""

    candidates: tuple[BundleInfo, ...] = ()
    """The candidate, or its seeds."""

    champions: tuple[BundleInfo, ...] = ()
    """The champion, or its seeds."""

    test: dict[str, Any] = Field(default_factory=dict)
    """Number of test rows and SHA-256 over them."""

    created: str = ""
    """Time of the comparison, ISO 8601, UTC."""


def to_text(report: GateReport) -> str:
    """The report for people."""
    accuracy, section = report.accuracy, report.settings
    names = [" ".join(each.version for each in side) or "-"
             for side in (report.candidates, report.champions)]  # fmt: skip
    kinds = {f"{each.backend} {each.precision} on {each.device}"
             for each in (*report.candidates, *report.champions)}  # fmt: skip
    lines = [
        f"candidate {names[0]} against champion {names[1]}",
        f"on {report.rows:,} test rows, by {' and '.join(sorted(kinds)) or 'given answers'}",
        f"accuracy     {accuracy.candidate:.4f}, champion {accuracy.champion:.4f}, difference "
        f"{accuracy.difference:+.4f} [{accuracy.low:+.4f}, {accuracy.high:+.4f}]",
        f"  the candidate alone is right on {accuracy.gained:.2%}, the champion alone on "
        f"{accuracy.lost:.2%}; error {section.alpha} on each side covers {accuracy.covers}",
        f"verdict      {report.verdict} (required: {section.require})",
    ]
    lines += [
        f"{'ok     ' if check.passed else 'REFUSED'}      {check.name}: {check.detail}"
        for check in report.checks
    ]
    lines.append("what rows and disagreement like these can show, guards aside:")
    for each in report.power:
        needed = "never" if each.rows_needed is None else f"{each.rows_needed:,} rows for 0.8"
        lines.append(f"  true gain {each.gain:+.2f} passes with {each.power:.3f}, {needed}")
    if report.minimum_detectable is not None:
        lines.append(f"  a true gain of {report.minimum_detectable:+.4f} is shown with 0.8")
    lines.append("PASSED" if report.passed else "NOT PASSED")
    return "\n".join([*lines, *(f"  - {reason}" for reason in report.reasons)])
