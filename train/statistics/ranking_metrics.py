"""Areas under the ROC and precision-recall curves, with the influence of each row. Pure.

Shape suffixes: N rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve.inference.scores import Array
from train.statistics.metrics import Floats


@dataclass(frozen=True, kw_only=True)
class Areas:
    """Areas of one label, and their derivatives by the weight of each row."""

    roc: float
    average_precision: float
    roc_influence_N: Floats
    average_precision_influence_N: Floats


def areas(scores_N: Array, positive_N: NDArray[np.bool_]) -> Areas | None:
    """Compute the areas of one label; None for a label that no row or every row has.

    ROC: the probability that a positive row scores above a negative one, ties counted half
    (D. Bamber 1975, The area above the ordinal dominance graph, J. Math. Psychology 12); its
    influence is that of E. R. DeLong, D. M. DeLong and D. L. Clarke-Pearson (1988), Biometrics
    44, 837-845. Average precision: the mean over positive rows of the precision P among the T
    rows that score at least as high. A further row k moves the precision of every positive row
    below it by (y_k - P) / T.
    """
    if not positive_N.any() or positive_N.all():
        return None
    order_N = np.argsort(-scores_N, kind="stable")
    sorted_N, hit_N = scores_N[order_N], positive_N[order_N].astype(np.float64)
    is_first_N = np.append(True, sorted_N[1:] != sorted_N[:-1])
    first = np.flatnonzero(is_first_N)
    last = np.append(first[1:], len(sorted_N)) - 1
    group_N = np.cumsum(is_first_N) - 1
    hits_N, misses_N = np.cumsum(hit_N), np.cumsum(1 - hit_N)
    num_hits, num_misses = hits_N[-1], misses_N[-1]
    up_to_N, before_N = last[group_N], first[group_N]
    # Half of the rows of the same score count as above, half as below.
    hits_above_N = (hits_N[up_to_N] + hits_N[before_N] - hit_N[before_N]) / 2
    misses_above_N = (misses_N[up_to_N] + misses_N[before_N] - (1 - hit_N[before_N])) / 2
    won_N = np.where(hit_N > 0, 1 - misses_above_N / num_misses, hits_above_N / num_hits)
    roc = float((hit_N * won_N).sum() / num_hits)
    roc_influence_N = (won_N - roc) / np.where(hit_N > 0, num_hits, num_misses)

    rows_N = up_to_N + 1.0
    precision_N = hits_N[up_to_N] / rows_N
    average = float((hit_N * precision_N).sum() / num_hits)
    below_N = np.cumsum((hit_N / rows_N)[::-1])[::-1][before_N]
    drop_N = np.cumsum((hit_N * precision_N / rows_N)[::-1])[::-1][before_N]
    influence_N = (hit_N * (precision_N - average + below_N) - drop_N) / num_hits
    original_N = np.argsort(order_N, kind="stable")
    return Areas(
        roc=roc,
        average_precision=average,
        roc_influence_N=roc_influence_N[original_N],
        average_precision_influence_N=influence_N[original_N],
    )
