"""Selective classification: the risk-coverage curve, and a threshold with a guaranteed risk.

The user states an acceptable selective risk: the error rate on answered texts. The threshold
found here keeps to it with a stated probability over the draw of the calibration rows, in
finite samples and for any model, provided that those rows come from the same distribution as
future ones and were not used to make the model. Rows of the validation split were used: they
chose the best checkpoint, and temperature and label thresholds were fitted on them. The effect
is small, because few choices were made, but no theorem covers it; `scripts/check_abstention`
tests the bound on rows that the model has never seen.

Method: Learn then Test (A. N. Angelopoulos, S. Bates, E. J. Candes, M. I. Jordan and L. Lei
2021) with the selective risk of Y. Geifman and R. El-Yaniv (2017), Selective classification
for deep neural networks, NIPS. For each threshold of a grid that is fixed beforehand, the
hypothesis is that its risk is over the limit; given the number of rows answered, the number
of errors is binomial, so the exact tail is a p-value. The grid is tested in order of falling
confidence by the fallback procedure (B. L. Wiens 2003, A fixed sequence Bonferroni procedure
for testing multiple endpoints, Pharmaceutical Statistics 2): the error probability is divided
among several starts, and a test that succeeds passes its part on to the next. All accepted
thresholds hold simultaneously, so the smallest may be chosen.

Shape suffixes: N rows, K points of a curve.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.bundle.manifest import Abstention

STARTS = (7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0)
"""Log odds of the confidences at which a sequence of tests starts. Few rows are above the first
ones; where these cannot reject anything, a later start can."""

STEP = 0.1
"""Step between two thresholds, in log odds."""

LOWEST = -4.0
"""Log odds of the smallest threshold, except 0, which answers everything."""


@dataclass(frozen=True, kw_only=True)
class RiskCurve:
    """Coverage and selective risk as the threshold falls."""

    coverage_K: NDArray[np.float64]
    """Fraction of rows that are answered."""
    risk_K: NDArray[np.float64]
    """Error rate on the answered rows."""
    threshold_K: NDArray[np.float64]


def risk_curve(confidence_N: NDArray[np.float64], wrong_N: NDArray[np.bool_]) -> RiskCurve:
    """Compute one point per distinct confidence: rows of equal confidence are answered together."""
    order_N = np.argsort(-confidence_N, kind="stable")
    sorted_N = confidence_N[order_N]
    last_N = np.append(sorted_N[1:] != sorted_N[:-1], True)
    answered_N = np.arange(1, len(sorted_N) + 1)
    errors_N = np.cumsum(wrong_N[order_N])
    return RiskCurve(
        coverage_K=answered_N[last_N] / len(sorted_N),
        risk_K=errors_N[last_N] / answered_N[last_N],
        threshold_K=sorted_N[last_N],
    )


def choose_threshold(
    confidence_N: NDArray[np.float64],
    wrong_N: NDArray[np.bool_],
    *,
    max_risk: float,
    risk_confidence: float,
) -> Abstention:
    """Choose the smallest threshold that guarantees a selective risk of at most `max_risk`.

    wrong_N: True where the predicted labels are not exactly the true ones.
    Where no threshold does, `abstain_below` is None and `reason` states why.
    Raises ValueError for no rows.
    """
    from scipy.stats import binom

    n = len(confidence_N)
    if n == 0 or wrong_N.shape != confidence_N.shape:
        raise ValueError(
            f"{n} confidences and {len(wrong_N)} outcomes: expected as many, and at least one"
        )
    level_per_start = (1 - risk_confidence) / len(STARTS)
    level = 0.0
    accepted: tuple[float, int, int] | None = None
    for threshold, is_start in _grid():
        answered_N = confidence_N >= threshold
        answered, errors = int(answered_N.sum()), int(wrong_N[answered_N].sum())
        level += level_per_start if is_start else 0.0
        if level == 0.0:
            continue
        p_value = float(binom.cdf(errors, answered, max_risk)) if answered else 1.0
        if p_value <= level:
            accepted = threshold, answered, errors
        else:
            level = 0.0
    promise = f"a selective risk of at most {max_risk:g} at confidence {risk_confidence:g}"
    common: Any = {"max_risk": max_risk, "risk_confidence": risk_confidence, "rows": n}
    if accepted is None:
        needed = int(np.ceil(np.log(level_per_start) / np.log1p(-max_risk)))
        reason = (
            f"no threshold guarantees {promise} on {n} validation rows ({int(wrong_N.sum())} "
            f"errors); at least {needed} error-free high-confidence rows are needed: allow a "
            "larger calibration.max_risk or provide more validation rows"
        )
        return Abstention(**common, abstain_below=None, reason=reason)
    threshold, answered, errors = accepted
    return Abstention(
        **common,
        abstain_below=threshold,
        answered=answered,
        errors=errors,
        reason=(
            f"{promise}: threshold {threshold:.4f}, coverage {answered / n:.1%} of {n} validation "
            f"rows, {errors} errors in {answered} answers"
        ),
    )


def _grid() -> list[tuple[float, bool]]:
    """The thresholds, falling, and whether a sequence starts there. Must not depend on data."""
    steps = round((STARTS[0] - LOWEST) / STEP) + 1
    log_odds = [round(STARTS[0] - STEP * n, 6) for n in range(steps)]
    grid = [(float(1 / (1 + np.exp(-each))), each in STARTS) for each in log_odds]
    return [*grid, (0.0, False)]
