"""Areas under the ROC and precision-recall curves, for many weightings of the rows at once. Pure.

Rows are sorted once per label; each resample of `train.statistics.intervals` is then a few
cumulative sums.

Shape suffixes: N rows, R resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve.inference.scores import Array
from train.statistics.metrics import Floats


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The rows of one label by descending score, divided into runs.

    A run is either a group of equal scores that contains a positive row, or all rows between
    two such groups, none of which is positive.
    """

    order_N: NDArray[np.int64]
    starts: NDArray[np.int64]
    """Position in the order at which each run starts."""
    mixed: NDArray[np.int64]
    """Numbers of the runs that contain positives."""
    positives: NDArray[np.int64]
    """Numbers of the positive rows, in order."""
    positive_starts: NDArray[np.int64]
    """Position among the positives at which each run of `mixed` starts."""


def rank(scores_N: Array, positive_N: NDArray[np.bool_]) -> Ranking | None:
    """Prepare a label for `areas`; None for a label that no row or every row has."""
    if not positive_N.any() or positive_N.all():
        return None
    order_N = np.argsort(-scores_N, kind="stable")
    sorted_N, hit_N = scores_N[order_N], positive_N[order_N]
    new_group_N = np.append(True, sorted_N[1:] != sorted_N[:-1])
    group_N = np.cumsum(new_group_N) - 1
    mixed_N = np.bincount(group_N, weights=hit_N)[group_N] > 0
    starts_here_N = new_group_N & (mixed_N | np.append(True, mixed_N[:-1]))
    starts = np.flatnonzero(starts_here_N)
    run_N = np.cumsum(starts_here_N) - 1
    mixed = np.flatnonzero(mixed_N[starts])
    return Ranking(
        order_N=order_N,
        starts=starts,
        mixed=mixed,
        positives=order_N[hit_N],
        positive_starts=np.searchsorted(run_N[hit_N], mixed),
    )


def areas(ranking: Ranking, weights_NR: Floats) -> tuple[Floats, Floats]:
    """Areas under the ROC and the precision-recall curve for weighted rows, each (R,).

    ROC: the probability that a positive row scores above a negative one, ties counted half
    (D. Bamber 1975, The area above the ordinal dominance graph, J. Math. Psychology 12).
    Precision-recall: average precision, the sum of precision times the gain in recall.
    NaN where the weights leave no positive or no negative row.
    """
    total = np.add.reduceat(weights_NR[ranking.order_N], ranking.starts, axis=0)
    hits = np.add.reduceat(weights_NR[ranking.positives], ranking.positive_starts, axis=0)
    misses = total
    misses[ranking.mixed] -= hits
    misses_so_far = np.cumsum(misses, axis=0)
    num_misses_R = misses_so_far[-1]
    misses_so_far, misses = misses_so_far[ranking.mixed], misses[ranking.mixed]
    hits_so_far = np.cumsum(hits, axis=0)
    num_hits_R = hits_so_far[-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        below = num_misses_R - misses_so_far + misses / 2
        roc_R = (hits * below).sum(axis=0) / (num_hits_R * num_misses_R)
        precision = hits_so_far / np.maximum(hits_so_far + misses_so_far, 1e-300)
        average_R = (hits * precision).sum(axis=0) / num_hits_R
    return roc_R, np.where(num_misses_R > 0, average_R, np.nan)
