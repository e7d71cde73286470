"""Answer only where the model is sure: the risk at each coverage, and a threshold that holds.

The user states the share of wrong answers that is acceptable. The threshold found here keeps
to it with a stated probability over the draw of the calibration rows, in finite samples and
whatever the model is like, provided that those rows are drawn as the future ones are and had
no part in making the model. Rows of the validation split have had one: they chose the best
checkpoint, and temperature and label thresholds were fitted on them. What that costs is
small, since few choices were made, but no theorem covers it; `scripts/check_abstention`
tests the bound on rows that the model has never met.

Method: Learn then Test (A. N. Angelopoulos, S. Bates, E. J. Candes, M. I. Jordan and L. Lei
2021) with the selective risk of Y. Geifman and R. El-Yaniv (2017), Selective classification
for deep neural networks, NIPS. For each threshold of a grid that is fixed beforehand, the
hypothesis is that its risk is over the limit; given the number of rows answered, the number
of errors is binomial, so the exact tail is a p-value. The grid is walked from sure to unsure
by the fallback procedure (B. L. Wiens 2003, A fixed sequence Bonferroni procedure for testing
multiple endpoints, Pharmaceutical Statistics 2): the error probability is shared out among
several starts, and what a test that succeeds had is passed on to the next. All accepted
thresholds hold together, so the smallest may be taken.

Shape suffixes: N rows, K points of a curve.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.bundle.manifest import Abstention

STARTS = (7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0)
"""Log odds of the confidences at which a walk starts: few rows lie above the first ones, and
where they cannot prove anything the next start can."""

STEP = 0.1
"""Between two thresholds, in log odds."""

LOWEST = -4.0
"""Log odds of the smallest threshold but 0, which answers everything."""


@dataclass(frozen=True, kw_only=True)
class RiskCurve:
    """What is answered, and how much of it is wrong, as the threshold falls."""

    coverage_K: NDArray[np.float64]
    """Share of rows that are answered."""
    risk_K: NDArray[np.float64]
    """Share of the answers that are wrong."""
    threshold_K: NDArray[np.float64]


def risk_curve(confidence_N: NDArray[np.float64], wrong_N: NDArray[np.bool_]) -> RiskCurve:
    """One point per distinct confidence: rows of equal confidence are answered together."""
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
    """The smallest confidence from which on at most `max_risk` of the answers are wrong.

    wrong_N: True where the predicted labels are not exactly the true ones.
    Where no threshold is proved, `abstain_below` is None and `reason` says why.
    Raises ValueError for no rows.
    """
    from scipy.stats import binom

    n = len(confidence_N)
    if n == 0 or wrong_N.shape != confidence_N.shape:
        raise ValueError(f"{n} confidences and {len(wrong_N)} outcomes calibrate no threshold")
    share = (1 - risk_confidence) / len(STARTS)
    level = 0.0
    accepted: tuple[float, int, int] | None = None
    for threshold, is_start in _grid():
        answered_N = confidence_N >= threshold
        answered, errors = int(answered_N.sum()), int(wrong_N[answered_N].sum())
        level += share if is_start else 0.0
        if level == 0.0:
            continue
        p_value = float(binom.cdf(errors, answered, max_risk)) if answered else 1.0
        if p_value <= level:
            accepted = threshold, answered, errors
        else:
            level = 0.0
    promise = f"at most {max_risk:g} of the answers wrong, with confidence {risk_confidence:g}"
    common: Any = {"max_risk": max_risk, "risk_confidence": risk_confidence, "rows": n}
    if accepted is None:
        needed = int(np.ceil(np.log(share) / np.log1p(-max_risk)))
        reason = (
            f"no confidence threshold proves {promise}, on {n} validation rows of which "
            f"{int(wrong_N.sum())} are wrong; it takes at least {needed} sure rows without an "
            "error: allow a larger calibration.max_risk, or give more validation rows"
        )
        return Abstention(**common, abstain_below=None, reason=reason)
    threshold, answered, errors = accepted
    return Abstention(
        **common,
        abstain_below=threshold,
        answered=answered,
        errors=errors,
        reason=(
            f"{promise}: confidence from {threshold:.4f} on answers {answered / n:.1%} of {n} "
            f"validation rows, {errors} of {answered} wrong"
        ),
    )


def _grid() -> list[tuple[float, bool]]:
    """The thresholds, falling, and whether a walk starts there. It must not depend on data."""
    steps = round((STARTS[0] - LOWEST) / STEP) + 1
    log_odds = [round(STARTS[0] - STEP * n, 6) for n in range(steps)]
    grid = [(float(1 / (1 + np.exp(-each))), each in STARTS) for each in log_odds]
    return [*grid, (0.0, False)]
