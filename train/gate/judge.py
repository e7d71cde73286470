"""From predictions to the gate's report: the verdict, the guards, and the power. Pure.

Only `train.statistics.comparison` can let a candidate pass; the guards of `train.gate.guards`
can only refuse it. `train.gate.gate` supplies bundles, rows and predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from train.config.sections import GateSection
from train.gate.guards import (
    Check,
    calibration_checks,
    f1_check,
    finite_check,
    latency_check,
    recall_check,
    rows_check,
)
from train.gate.report import GateReport, Power
from train.statistics.comparison import AccuracyVerdict, Comparison, decide, promotes
from train.statistics.paired import (
    TARGET_POWER,
    minimum_detectable,
    non_inferiority_power,
    rows_needed,
    superiority_power,
)
from train.statistics.resampling import Predictions, ece_difference, f1_difference

GAINS = (0.01, 0.02, 0.05)
"""True accuracy gains for which the report states the power."""


def build_gate_report(
    section: GateSection,
    champion: Sequence[Predictions],
    candidate: Sequence[Predictions],
    labels: Sequence[str],
    *,
    task: str,
    seed: int,
    times_s: tuple[float, float] | None = None,
    more_checks: Sequence[Check] = (),
) -> GateReport:
    """Compare predictions on the same rows and report verdict, guards and power.

    champion, candidate: one `Predictions` per bundle. seed: of the resamples. times_s: seconds
    of champion and candidate for one text; None if not measured. more_checks: guards on what the
    compared rows do not show.
    """
    finite = finite_check(candidate)
    candidate = [_without_nan(each) for each in candidate]
    comparison = decide(
        np.stack([each.correct_N for each in champion]),
        np.stack([each.correct_N for each in candidate]),
        alpha=section.alpha,
        margin=section.margin,
    )
    bootstrap: Any = {"alpha": section.alpha, "resamples": section.resamples, "seed": seed}
    f1 = f1_difference(champion, candidate, **bootstrap)
    ece = ece_difference(champion, candidate, task=task, **bootstrap)
    checks = [
        rows_check(comparison.rows, section.min_test_rows),
        finite,
        f1_check(f1, margin=section.f1_margin),
        recall_check(
            champion, candidate, labels, max_drop=section.max_recall_drop, alpha=section.alpha
        ),
        *calibration_checks(ece, max_ece=section.max_ece, max_increase=section.max_ece_increase),
        *more_checks,
    ]
    if times_s is not None and section.max_latency_ratio is not None:
        checks.append(latency_check(*times_s, section.max_latency_ratio))
    return _summarize(section, comparison, checks)


def _without_nan(side: Predictions) -> Predictions:
    """Replace scores that are not finite by probabilities, so that every metric is finite."""
    return Predictions(
        probabilities_NC=np.nan_to_num(side.probabilities_NC, nan=0.0, posinf=1.0, neginf=0.0),
        predicted_NC=side.predicted_NC,
        reference_NC=side.reference_NC,
    )


def _summarize(section: GateSection, comparison: Comparison, checks: Sequence[Check]) -> GateReport:
    """From the comparison and the guards' results to a report with its reasons."""
    enough_rows = comparison.rows >= section.min_test_rows
    verdict: AccuracyVerdict = comparison.verdict if enough_rows else "inconclusive"
    promoted = promotes(verdict, section.require)
    # With too few rows the check of their number states the reason.
    problems = [_shortfall(section, comparison)] if enough_rows and not promoted else []
    problems += [f"{check.name}: {check.detail}" for check in checks if not check.passed]
    return GateReport(
        passed=not problems,
        verdict=verdict,
        reasons=tuple(problems) or (_success(section, comparison),),
        accuracy=comparison.accuracy,
        checks=tuple(checks),
        power=_power(section, comparison),
        minimum_detectable=minimum_detectable(
            comparison.rows, comparison.discordance, section.alpha
        ),
        rows=comparison.rows,
        settings=section,
    )


def _power(section: GateSection, comparison: Comparison) -> tuple[Power, ...]:
    """Power of the required verdict at each of `GAINS`."""
    n, discordance, alpha = comparison.rows, comparison.discordance, section.alpha
    if section.require == "superior":
        return tuple(
            Power(
                gain=gain,
                power=superiority_power(n, discordance, gain, alpha),
                rows_needed=rows_needed(discordance, gain, alpha),
            )
            for gain in GAINS
        )
    return tuple(
        Power(
            gain=gain,
            power=non_inferiority_power(n, discordance, gain, alpha, section.margin),
            rows_needed=rows_needed(discordance, gain, alpha, section.margin),
        )
        for gain in (0.0, *GAINS)
    )


def _success(section: GateSection, comparison: Comparison) -> str:
    accuracy = comparison.accuracy
    claim = (
        "significantly better than the champion's "
        f"(p = {accuracy.p_superior:.2g}, alpha {section.alpha})"
        if comparison.verdict == "superior"
        else f"non-inferior: less than {section.margin} below the champion's"
    )
    return f"accuracy is {claim}: {accuracy.interval:+.4f}"


def _shortfall(section: GateSection, comparison: Comparison) -> str:
    """State why the verdict is not the required one."""
    accuracy = comparison.accuracy
    figures = f"{accuracy.interval:+.4f}"
    if comparison.verdict == "inferior":
        return f"accuracy is significantly worse than the champion's: {figures}"
    if comparison.verdict == "non_inferior":
        worse = (
            ", but significantly worse by less than the margin"
            if accuracy.p_inferior <= section.alpha
            else f" (p = {accuracy.p_superior:.2g}, alpha {section.alpha})"
        )
        return (
            f"accuracy is not significantly better than the champion's{worse}: {figures}; it is "
            f"non-inferior at the margin of {section.margin}, which is enough for "
            "gate.require=non_inferior"
        )
    return (
        f"inconclusive: the accuracy difference is {figures}; a loss of {section.margin} or more "
        "is not ruled out, and the candidate is not significantly worse; "
        f"{_rows_required(section, comparison)}"
    )


def _rows_required(section: GateSection, comparison: Comparison) -> str:
    gain, margin = (0.01, 0.0) if section.require == "superior" else (0.0, section.margin)
    rows = rows_needed(comparison.discordance, gain, section.alpha, margin)
    assert rows is not None  # gain + margin is above 0
    case = "one point better" if gain else "exactly as good"
    return (
        f"about {rows:,} test rows are needed to pass a candidate that is {case} with probability "
        f"{TARGET_POWER}, there are {comparison.rows:,}"
    )
