"""From answers to the report: the verdict, the guards, and what these rows can show. Pure.

Only `train.statistics.comparison` can let a candidate pass; the guards of `train.gate.guards`
can only refuse it. `train.gate.gate` supplies bundles, rows and answers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from train.config.sections import GateSection
from train.gate.guards import (
    Check,
    calibration_checks,
    f1_check,
    finite_check,
    floor_check,
    latency_check,
    rows_check,
)
from train.gate.report import Accuracy, GateReport, Power
from train.statistics.comparison import Decision, Verdict, decide, promotes
from train.statistics.paired import (
    TARGET_POWER,
    minimum_detectable,
    non_inferiority_power,
    rows_needed,
    superiority_power,
)
from train.statistics.resampling import Answers, Bootstrap

GAINS = (0.01, 0.02, 0.05)
"""True gains of accuracy for which the report says how likely they are found."""


def build_gate_report(
    section: GateSection,
    champion: Sequence[Answers],
    candidate: Sequence[Answers],
    labels: Sequence[str],
    *,
    task: str,
    seed: int,
    times_s: tuple[float, float] | None = None,
) -> GateReport:
    """The verdict on answers to the same rows, and what the guards say.

    champion, candidate: one `Answers` per bundle. seed: of the resamples. times_s: seconds of
    champion and candidate for one text, None where it was not measured.
    """
    finite = finite_check(candidate)
    # No confidence at all in place of no number, so that the figures stay figures.
    candidate = [
        Answers(
            probabilities_NC=np.nan_to_num(each.probabilities_NC, nan=0.0, posinf=1.0, neginf=0.0),
            predicted_NC=each.predicted_NC,
            reference_NC=each.reference_NC,
        )
        for each in candidate
    ]
    decision = decide(
        np.stack([each.right_N for each in champion]),
        np.stack([each.right_N for each in candidate]),
        alpha=section.alpha,
        margin=section.margin,
    )
    bootstrap = Bootstrap(alpha=section.alpha, resamples=section.resamples, seed=seed)
    checks: list[Check] = [
        rows_check(decision.rows, section.min_test_rows),
        finite,
        f1_check(champion, candidate, bootstrap, margin=section.f1_margin),
        floor_check(champion, candidate, labels, drop=section.max_recall_drop, alpha=section.alpha),
        *calibration_checks(
            champion,
            candidate,
            bootstrap,
            task=task,
            max_ece=section.max_ece,
            max_increase=section.max_ece_increase,
        ),
    ]
    if times_s is not None and section.max_latency_ratio is not None:
        checks.append(latency_check(*times_s, section.max_latency_ratio))
    accuracies = [float(np.mean([each.right_N for each in side])) for side in (champion, candidate)]
    return _summarise(section, decision, checks, champion=accuracies[0], candidate=accuracies[1])


def _summarise(
    section: GateSection,
    decision: Decision,
    checks: Sequence[Check],
    *,
    champion: float,
    candidate: float,
) -> GateReport:
    """From a decision and the guards' findings to a report with its reasons."""
    enough_rows = decision.rows >= section.min_test_rows
    verdict: Verdict = decision.verdict if enough_rows else "inconclusive"
    power = tuple(
        Power(
            gain=gain,
            power=_power(section, decision, gain),
            rows_needed=rows_needed(
                decision.discordance,
                gain,
                section.alpha,
                section.margin if section.require == "non_inferior" else 0.0,
            ),
        )
        for gain in ((0.0, *GAINS) if section.require == "non_inferior" else GAINS)
    )
    promoted = promotes(verdict, section.require)
    # With too few rows the reason is the check of their number.
    problems = [_shortfall(verdict, section, decision)] if enough_rows and not promoted else []
    problems += [f"{check.name}: {check.detail}" for check in checks if not check.passed]
    return GateReport(
        passed=not problems,
        verdict=verdict,
        reasons=tuple(problems) or (_shown(verdict, section, decision),),
        accuracy=Accuracy(
            champion=champion,
            candidate=candidate,
            **{
                name: getattr(decision, name)
                for name in ("difference", "low", "high", "gained", "lost")
            },
            p_superior=decision.p_superior,
            p_inferior=decision.p_inferior,
            covers=decision.covers,
        ),
        checks=tuple(checks),
        power=power,
        minimum_detectable=minimum_detectable(decision.rows, decision.discordance, section.alpha),
        rows=decision.rows,
        settings=section,
    )


def _power(section: GateSection, decision: Decision, gain: float) -> float:
    n, discordance = decision.rows, decision.discordance
    if section.require == "superior":
        return superiority_power(n, discordance, gain, section.alpha)
    return non_inferiority_power(n, discordance, gain, section.alpha, section.margin)


def _interval(decision: Decision) -> str:
    return f"{decision.difference:+.4f} [{decision.low:+.4f}, {decision.high:+.4f}]"


def _shown(verdict: Verdict, section: GateSection, decision: Decision) -> str:
    claim = (
        f"better than the champion's (p = {decision.p_superior:.2g}, at most {section.alpha})"
        if verdict == "superior"
        else f"less than {section.margin} below the champion's"
    )
    return f"accuracy is shown to be {claim}: {_interval(decision)}"


def _shortfall(verdict: Verdict, section: GateSection, decision: Decision) -> str:
    figures = _interval(decision)
    if verdict == "inferior":
        return f"accuracy is shown to be worse than the champion's: {figures}"
    if verdict == "non_inferior":
        worse = (
            ", and it is shown to be a little worse"
            if decision.p_inferior <= section.alpha
            else f" (p = {decision.p_superior:.2g}, over {section.alpha})"
        )
        return (
            f"accuracy is not shown to be better than the champion's{worse}: {figures}; it is "
            f"shown to be less than {section.margin} below, which gate.require=non_inferior asks"
        )
    wanted = _rows_wanted(section, decision)
    return (
        f"these rows cannot tell: the difference of accuracy is {figures}, so a loss of "
        f"{section.margin} or more is not ruled out, nor is the candidate shown to be worse; "
        f"{wanted}"
    )


def _rows_wanted(section: GateSection, decision: Decision) -> str:
    gain, margin = (0.01, 0.0) if section.require == "superior" else (0.0, section.margin)
    rows = rows_needed(decision.discordance, gain, section.alpha, margin)
    assert rows is not None  # gain + margin is above 0
    case = "one point better" if gain else "exactly as good"
    return (
        f"to pass a candidate that is {case} with probability {TARGET_POWER} takes about {rows:,} "
        f"test rows, these are {decision.rows:,}"
    )
