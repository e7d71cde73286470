"""Score intervals for metrics that are not proportions of rows.

A percentile bootstrap of a metric near 1, or one of rare labels, is too short: of "1.0" every
resample gives 1.0 again. Here each metric is treated as a proportion of some effective number
of trials, and has the score interval of E. B. Wilson (1927), which is wide where it must be:

- F1 of a label is 2J / (1 + J), and J = TP / (TP + FP + FN) is a proportion;
- ROC-AUC of a label has the variance of Hanley and McNeil in score form (`newcombe`);
- average precision of a label: a proportion of its positive rows (`average_precision`);
- means over labels combine the labels' intervals (`mean_of_labels`);
- other functions of counts: `of_counts`;
- means of losses over rows: `mean_loss`.

All are approximate but the first; `scripts/check_intervals` measures how often they cover.

Shape suffixes: N rows, C labels, K columns, M pseudo-rows, U distinct rows, R sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from train.statistics.metrics import Floats

Z = NormalDist().inv_cdf(0.975)
"""Critical value of the 95 % intervals."""

Ends = tuple[Floats, Floats]
"""Lower and upper ends."""


def wilson_ends(p: Floats, trials: Floats, z: float) -> Ends:
    """Score interval of proportions of (effective) trials, which need not be whole.

    Source: E. B. Wilson (1927), Probable inference, the law of succession, and statistical
    inference, JASA 22, 209-212.
    """
    centre = p + z * z / (2 * trials)
    spread = z * np.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    low = np.where(p <= 0, 0.0, (centre - spread) / scale)
    return low, np.where(p >= 1, 1.0, (centre + spread) / scale)


def proportion_ends(p: Floats, trials: Floats, z: float = Z) -> Ends:
    """Interval of proportions of whole trials: Wilson's, longer for one to three errors or hits.

    There Wilson's is too short: proportions near 1 it misses on 8 to 9 % of test sets.
    Source: L. D. Brown, T. T. Cai and A. DasGupta (2001), Interval estimation for a binomial
    proportion, Statistical Science 16, 101-133, section 4.1.2: ends of the Poisson distribution.
    """
    from scipy.special import gammaincinv

    low, high = wilson_ends(p, trials, z)
    alpha = 2 * NormalDist().cdf(-z)

    def end(count: Floats) -> Floats:
        few = (count > 0.5) & (count < 3.5)
        return np.where(few, gammaincinv(np.where(few, count, 1.0), alpha) / trials, 1.0)

    return np.minimum(low, end(p * trials)), np.maximum(high, 1 - end((1 - p) * trials))


def f1_ends(jaccard: Floats, trials: Floats, z: float = Z) -> Ends:
    """Interval of labels' F1 from J = TP / (TP + FP + FN) and its denominator."""
    low, high = proportion_ends(jaccard, trials, z)
    return 2 * low / (1 + low), 2 * high / (1 + high)


def newcombe(auc: Floats, positives: Floats, negatives: Floats, z: float = Z) -> Ends:
    """Interval of areas under the ROC curve.

    Source: R. G. Newcombe (2006), Confidence intervals for an effect size measure based on the
    Mann-Whitney statistic, part 2, Statistics in Medicine 25, 559-573, method 5: the areas whose
    distance to the observed one is z standard errors, by the variance of J. A. Hanley and B. J.
    McNeil (1982) with the mean of both numbers of rows in place of each.
    """
    mean = (positives + negatives) / 2 - 1

    def is_within(area: Floats) -> NDArray[np.bool_]:
        factor = 1 + mean * ((1 - area) / (2 - area) + area / (1 + area))
        variance = area * (1 - area) * factor / (positives * negatives)
        return np.asarray(np.abs(area - auc) <= z * np.sqrt(variance))

    ends = []
    for outer in (np.zeros_like(auc), np.ones_like(auc)):
        inside, outside = auc.copy(), outer
        for _ in range(40):
            middle = (inside + outside) / 2
            within = is_within(middle)
            inside, outside = np.where(within, middle, inside), np.where(within, outside, middle)
        ends.append(outside)
    return ends[0], ends[1]


def average_precision_ends(average: Floats, positives: Floats, z: float = Z) -> Ends:
    """Interval of average precisions, as proportions of their positive rows.

    Source: K. Boyd, K. H. Eng and C. D. Page (2013), Area under the precision-recall curve:
    point estimates and confidence intervals, ECML PKDD, the binomial interval, in score form.
    """
    return wilson_ends(average, positives, z)


def mean_of_labels(ends: Callable[[float], Ends], influence_NC: Floats) -> tuple[float, float]:
    """Interval of the mean of labels' metrics.

    ends: the labels' intervals at a critical value. influence_NC: derivative of each label's
    metric by the weight of each row, which tells how the labels vary together. Where a label
    has no variation, the correlation is the one that an error of a single-label model causes,
    which harms two labels at once.
    Source: X. Yan and X. G. Su (2010), Stratified Wilson and Newcombe confidence intervals for
    multiple binomial proportions, Statistics in Biopharmaceutical Research 2, 329-335: the
    labels' intervals at the smaller critical value at which their mean has the error of the
    whole; here with the labels' correlations, none taken as negative.
    """
    low_C, high_C = ends(Z)
    width_C = high_C - low_C
    norm_C = np.sqrt((influence_NC**2).sum(axis=0))
    varies_C = norm_C > 1e-9 * max(float(norm_C.max()), 1e-300)
    scaled_NC = influence_NC / np.where(varies_C, norm_C, 1.0)
    correlation_CC = np.where(
        varies_C[:, None] & varies_C, scaled_NC.T @ scaled_NC, 1 / max(1, len(width_C) - 1)
    )
    np.fill_diagonal(correlation_CC, 1.0)
    root = math.sqrt(width_C @ np.clip(correlation_CC, 0.0, 1.0) @ width_C)
    low_C, high_C = ends(Z * root / float(width_C.sum()))
    return float(low_C.mean()), float(high_C.mean())


def of_counts(
    value: Callable[[Floats], Floats], rows_NK: Floats, pseudo_MK: Floats, *, least: float = 0.0
) -> tuple[float, float]:
    """Interval of a metric between `least` and 1 that is a function of column sums over rows.

    value: from sums, (R, K), to metrics, (R,). rows_NK: 0 or 1. pseudo_MK: what the rows would
    add if their predictions were wrong, and if they were right; two such rows in all, spread
    evenly, give metrics at an end of their range a variance.
    Source: E. L. Korn and B. I. Graubard (1998), Confidence intervals for proportions with small
    expected number of positive counts estimated from survey data, Survey Methodology 24,
    193-201: the score interval of as many trials as give a proportion the variance, by the
    delta method, of the metric, with the quantile of t. It is extended by twice the jackknife's
    estimate of the bias (M. H. Quenouille 1956, Notes on bias in estimation, Biometrika 43),
    which sees only the part of order 1 / N.
    """
    sums_K, n = rows_NK.sum(axis=0), len(rows_NK)
    smoothed_K = sums_K + 2 * pseudo_MK.mean(axis=0)
    steps_K = 1e-4 * np.maximum(smoothed_K, 1.0)
    above_R, below_R = (value(smoothed_K + sign * np.diag(steps_K)) for sign in (1, -1))
    slope_K = (above_R - below_R) / (2 * steps_K)
    variance = float(((rows_NK @ slope_K) ** 2).sum() + 2 * ((pseudo_MK @ slope_K) ** 2).mean())
    q, observed = (
        (float(value(each_K[None])[0]) - least) / (1 - least) for each_K in (smoothed_K, sums_K)
    )
    trials = max(q * (1 - q), 1e-9) * (1 - least) ** 2 / max(variance, 1e-12)
    z = _t_quantile(max(trials - 1, 3.0))
    low, high = wilson_ends(np.array(observed), np.array(trials), z)
    distinct_UK, count_U = np.unique(rows_NK.astype(np.uint8), axis=0, return_counts=True)
    without_U = value(sums_K - distinct_UK)
    bias = (n - 1) * (float(without_U @ count_U) / n - float(value(sums_K[None])[0]))
    return (
        max(least, least + (1 - least) * float(low) - max(2 * bias, 0.0)),
        min(1.0, least + (1 - least) * float(high) - min(2 * bias, 0.0)),
    )


def mean_loss(loss_N: Floats, wrong_N: Floats, right_N: Floats) -> tuple[float, float]:
    """Interval of the mean of losses of at least 0: Student's t, and room for what was not seen.

    wrong_N, right_N: what each row would lose if its prediction were wrong, or right. One wrong
    row is added for the upper end and one right row for the lower, each the mean over the rows,
    and an end moves outwards only. The rows of a good model seldom include one of its rare and
    large losses, so without this the upper end is too low.
    Source: after A. Agresti and B. A. Coull (1998), Approximate is better than "exact" for
    interval estimation of binomial proportions, The American Statistician 52, 119-126.
    """
    n = len(loss_N)
    t = _t_quantile(max(n - 1, 1))
    mean = float(loss_N.mean())
    spread = t * math.sqrt(float(((loss_N - mean) ** 2).sum()) / max(n - 1, 1) / n)
    ends = [mean - spread, mean + spread]
    for which, pseudo_N in enumerate((right_N, wrong_N)):
        centre = (float(loss_N.sum()) + float(pseudo_N.mean())) / (n + 1)
        square = (float((loss_N**2).sum()) + float((pseudo_N**2).mean())) / (n + 1)
        spread = t * math.sqrt(max(square - centre * centre, 0.0) / (n + 1))
        outer = (min, max)[which]
        ends[which] = outer(ends[which], centre + (spread if which else -spread))
    return max(0.0, ends[0]), ends[1]


def _t_quantile(degrees: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.975))
