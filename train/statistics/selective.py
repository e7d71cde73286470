"""Selective classification: the risk-coverage curve, and a threshold with a guaranteed risk.

The user states an acceptable selective risk: the error rate on answered texts. The threshold
found here keeps to it with a stated probability over the draw of the rows that test it, in
finite samples and for any model, provided that those rows come from the same distribution as
future ones and chose nothing else. So the validation rows are divided (`pilot_rows`): the pilot
fits temperature and label thresholds, and decides where the tests start; the others test the
abstention threshold and nothing else. Thresholds that are fitted to maximize F1 on the rows
that test them make the errors on just these rows few: with 20 labels and 200 rows, the promise
at 95 % was broken in up to 80 % of draws.

The validation rows also chose the best of several checkpoints. The promise is therefore made
for all of them at once: each has the error probability divided by their number (Bonferroni).

Method: Learn then Test (A. N. Angelopoulos, S. Bates, E. J. Candes, M. I. Jordan and L. Lei
2021) with the selective risk of Y. Geifman and R. El-Yaniv (2017), Selective classification
for deep neural networks, NIPS. For each threshold of a fixed grid, the hypothesis is that its
risk is over the limit; given the number of rows answered, the number of errors is binomial, so
the exact tail is a p-value. The grid is tested in order of falling confidence at the full
error probability until a test fails (fixed sequence; W. Maurer, L. A. Hothorn and W. Lehmacher
1995), starting where the pilot expects the most power. The start may depend on the pilot,
since it is independent of the rows that test: the split fixed sequence of
Learn then Test. `scripts/check_abstention` simulates the promise.

Shape suffixes: N rows, T thresholds, K points of a curve.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.bundle.manifest import Abstention

PILOT_SHARE = 0.3
"""Fraction of the validation rows in the pilot. In simulations (200 to 1,000 rows, 20 and 28
labels) 0.25 to 0.5 keep the promise alike; a larger pilot tunes more label thresholds, and a
smaller one proves a threshold more often: with half of the rows, a third less."""

HIGHEST, LOWEST, STEP = 12.0, -4.0, 0.1
"""Log odds of the largest and the smallest threshold, except 0, which answers everything, and
the step between two."""

PRIOR_ROWS = 20
"""Weight, in rows, of the model's own confidences in the pilot's estimate of a risk."""


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


def pilot_rows(texts: Sequence[object], share: float = PILOT_SHARE) -> NDArray[np.bool_]:
    """Choose the rows of the pilot, (N,), by the hash of each text; equal texts stay together.

    Those of a larger share hold those of a smaller one.
    """
    keys_N = np.array([hashlib.sha256(repr(text).encode()).hexdigest() for text in texts])
    size = max(1, round(share * len(keys_N)))
    return np.asarray(keys_N <= np.sort(keys_N)[size - 1])


@dataclass(frozen=True, kw_only=True)
class Proved:
    """A threshold with a proved limit of the risk, and what was seen on the rows that test."""

    threshold: float
    answered: int
    """Number of rows at or above it."""
    errors: int
    """Number of those that are wrong."""


def smallest_proved(
    confidence_N: NDArray[np.float64],
    wrong_N: NDArray[np.bool_],
    *,
    pilot_N: NDArray[np.bool_],
    max_risk: float,
    level: float,
    lowest: float = LOWEST,
) -> Proved | None:
    """Find the smallest threshold that is proved to limit the error rate at or above it.

    pilot_N: the rows that decide where the tests start; all others test. level: probability of
    a threshold that does not keep to `max_risk`. lowest: log odds of the smallest threshold but
    0. None: none is proved. Raises ValueError for no rows and for unequal shapes.
    """
    from scipy.stats import binom

    if len(confidence_N) == 0 or not confidence_N.shape == wrong_N.shape == pilot_N.shape:
        raise ValueError(
            f"{len(confidence_N)} confidences, {len(wrong_N)} outcomes and {len(pilot_N)} roles: "
            "expected as many, and at least one"
        )
    grid_T = _grid(lowest)
    n = int((~pilot_N).sum())
    answered_T, errors_T = _counts(confidence_N[~pilot_N], wrong_N[~pilot_N], grid_T)
    p_T = np.where(answered_T > 0, binom.cdf(errors_T, np.maximum(answered_T, 1), max_risk), 1.0)
    start = _start(confidence_N[pilot_N], wrong_N[pilot_N], grid_T, n, max_risk, level)
    accepted = int((p_T[start:] > level).argmax()) if (p_T[start:] > level).any() else len(p_T)
    if accepted == 0:
        return None
    last = min(start + accepted, len(grid_T)) - 1
    return Proved(
        threshold=float(grid_T[last]), answered=int(answered_T[last]), errors=int(errors_T[last])
    )


def sure_rows(share: float, level: float) -> int:
    """Number of rows that prove, if all have a property, that over `share` of all rows have it.

    The least n with share^n <= level, from the exact binomial test.
    """
    return math.ceil(math.log(level) / math.log(share))


def choose_threshold(
    confidence_N: NDArray[np.float64],
    wrong_N: NDArray[np.bool_],
    *,
    pilot_N: NDArray[np.bool_],
    max_risk: float,
    risk_confidence: float,
    checkpoints: int = 1,
) -> Abstention:
    """Choose the smallest threshold that guarantees a selective risk of at most `max_risk`.

    wrong_N: True where the predicted labels are not exactly the true ones. pilot_N: the rows
    that decide where the tests start; all others test. checkpoints: how many models these rows
    chose among. Where no threshold is proved, `abstain_below` is None and `reason` states why.
    Raises ValueError for no rows and for unequal shapes.
    """
    level = (1 - risk_confidence) / checkpoints
    found = smallest_proved(confidence_N, wrong_N, pilot_N=pilot_N, max_risk=max_risk, level=level)
    n = int((~pilot_N).sum())
    promise = f"a selective risk of at most {max_risk:g} at confidence {risk_confidence:g}"
    common: Any = {
        "max_risk": max_risk,
        "risk_confidence": risk_confidence,
        "rows": n,
        "checkpoints": checkpoints,
    }
    among = f", for the best of {checkpoints} checkpoints" if checkpoints > 1 else ""
    if found is None:
        reason = (
            f"no threshold guarantees {promise}{among} on {n} validation rows "
            f"({int(wrong_N[~pilot_N].sum())} errors) that chose nothing else; at least "
            f"{sure_rows(1 - max_risk, level)} error-free high-confidence rows are needed: allow a "
            "larger calibration.max_risk or provide more validation rows"
        )
        return Abstention(**common, abstain_below=None, reason=reason)
    return Abstention(
        **common,
        abstain_below=found.threshold,
        answered=found.answered,
        errors=found.errors,
        reason=(
            f"{promise}{among}: threshold {found.threshold:.4f}, coverage "
            f"{found.answered / n:.1%} of {n} validation rows that chose nothing else, "
            f"{found.errors} errors in {found.answered} answers"
        ),
    )


def _grid(lowest: float) -> NDArray[np.float64]:
    """The thresholds, falling, (T,). Must not depend on data."""
    log_odds = np.linspace(HIGHEST, lowest, round((HIGHEST - lowest) / STEP) + 1)
    return np.append(1 / (1 + np.exp(-log_odds)), 0.0)


def _counts(
    confidence_N: NDArray[np.float64], wrong_N: NDArray[np.bool_], grid_T: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows answered at each threshold, and the errors among them, each (T,)."""
    order_N = np.argsort(-confidence_N, kind="stable")
    answered_T = np.searchsorted(-confidence_N[order_N], -grid_T, side="right")
    errors_so_far = np.concatenate([[0], np.cumsum(wrong_N[order_N])])
    return answered_T, errors_so_far[answered_T]


def _start(
    confidence_N: NDArray[np.float64],
    wrong_N: NDArray[np.bool_],
    grid_T: NDArray[np.float64],
    num_tests: int,
    max_risk: float,
    level: float,
) -> int:
    """Position in the grid at which a test of `num_tests` rows has the most power, by the pilot.

    The risk at a threshold is the pilot's error rate, shrunk towards what the confidences
    state; the power is the probability of few enough errors, averaged over a log odd of
    neighbours, since one lucky threshold is a bad start. A poor estimate costs power only.
    """
    from scipy.stats import binom

    answered_T, errors_T = _counts(confidence_N, wrong_N, grid_T)
    doubt = np.concatenate([[0.0], np.cumsum(1 - np.sort(confidence_N)[::-1])])
    stated_T = doubt[answered_T] / np.maximum(answered_T, 1)
    risk_T = (errors_T + PRIOR_ROWS * stated_T) / (answered_T + PRIOR_ROWS)
    rows_T = np.round(answered_T / max(1, len(confidence_N)) * num_tests)
    few_T = binom.ppf(level, np.maximum(rows_T, 1), max_risk)
    few_T -= binom.cdf(few_T, np.maximum(rows_T, 1), max_risk) > level
    power_T = np.where(rows_T > 0, binom.cdf(few_T, np.maximum(rows_T, 1), risk_T), 0.0)
    window = round(1 / STEP) + 1
    return int(np.convolve(power_T, np.ones(window), "same").argmax())
