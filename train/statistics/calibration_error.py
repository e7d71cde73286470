"""How large a calibration error is, beyond what chance alone would show.

The expected calibration error adds up absolute gaps, so the noise of each bin makes it larger,
also for a calibrated model (see `probability_metrics.chance_ece`). The interval here accounts
for that, and the gate refuses only what it shows.

Shape suffixes: N rows, B bins, D draws.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from train.statistics.metrics import Floats
from train.statistics.probability_metrics import ece

DRAWS = 1000


class CalibrationError:
    """The calibration error of one model on the test rows."""

    def __init__(self, gap_NB: Floats, num_predictions: int, *, seed: int) -> None:
        """gap_NB: see `gap_rows`. num_predictions: rows, times labels if multi-label.

        The gaps of the bins vary as normal with the covariance of the rows' gaps, which keeps
        together the labels of a multi-label row; one prediction that fails is added, so that
        rows without an error have a variance too.
        """
        gap_B, n = gap_NB.sum(axis=0), len(gap_NB)
        self.num_predictions = num_predictions
        self.value = float(ece(gap_B, num_predictions))
        covariance_BB = n * np.cov(gap_NB.T, bias=True).reshape(len(gap_B), len(gap_B))
        covariance_BB += np.eye(len(gap_B)) / len(gap_B)
        spread_B = np.sqrt(np.diag(covariance_BB))
        normal_DB = np.random.default_rng(seed).standard_normal((DRAWS, len(gap_B)))
        self.noise_DB = normal_DB @ np.linalg.cholesky(covariance_BB).T
        gap_B = np.where(gap_B < 0, -1, 1) * np.maximum(np.abs(gap_B), spread_B)
        self.direction_B = gap_B * num_predictions / np.abs(gap_B).sum()

    def drawn(self, true_ece: float) -> Floats:
        """Draw what test sets like this one show of a model with a given true error, (D,)."""
        return ece(true_ece * self.direction_B + self.noise_DB, self.num_predictions)

    def interval(self, alpha: float = 0.05) -> tuple[float, float]:
        """Two-sided interval with error `alpha`, extended to hold the value.

        For the upper end a value below what chance alone shows counts as the median of that.

        The errors under which the observed value is in neither tail, along the line of models
        whose gaps have the observed proportions: J. Carpenter (1999), Test inversion bootstrap
        confidence intervals, J. of the Royal Statistical Society B 61, 159-172. In simulations
        (`scripts/check_intervals`) it covers the true error in 93 to 98 % of test sets.
        """
        low = self._first(lambda drawn_D: (drawn_D >= self.value).mean() > alpha / 2)
        least = max(self.value, float(np.median(self.drawn(0.0))))
        high = self._first(lambda drawn_D: (drawn_D <= least).mean() < alpha / 2)
        return min(low, self.value), max(high, self.value)

    def _first(self, holds: Callable[[Floats], bool | np.bool_]) -> float:
        """The smallest true error for which a monotone condition on the draws holds; at most 1."""
        if holds(self.drawn(0.0)):
            return 0.0
        low, high = 0.0, 1.0
        for _ in range(30):
            middle = (low + high) / 2
            if holds(self.drawn(middle)):
                high = middle
            else:
                low = middle
        return high
