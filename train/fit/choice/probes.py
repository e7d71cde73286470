"""Cross-fitted linear probes: each row is scored by a probe that was fitted without it.

Shape suffixes: N rows, D features, C labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from serve.inference.scores import Array
from train.model.head import L2, probes_of_folds
from train.model.loss import Loss
from train.statistics.calibrated_loss import calibrated_losses
from train.statistics.metrics import Choice

COARSE = (1.0, 10.0, 100.0, 1000.0)
"""Penalties that are tried first; then those between the best and its neighbours."""

STEP = 10**0.5


@dataclass(frozen=True, kw_only=True)
class CrossFitted:
    """Probes of one penalty, one per fold."""

    l2: float
    logits_NC: Array
    """Of every row, by the probe of the other folds."""


def cross_fit(
    features_ND: Tensor,
    targets: Tensor,
    loss: Loss,
    num_labels: int,
    fold_N: NDArray[np.int64],
    *,
    bias: bool,
    l2: float = L2,
) -> CrossFitted:
    """Fit one probe per fold on the rows of the other folds. targets, bias: as of `fit_probe`."""
    logits_NC = np.zeros((len(features_ND), num_labels), dtype=np.float32)
    for held_N, weight_CD, bias_C in probes_of_folds(
        features_ND, targets, loss, num_labels, fold_N, bias=bias, l2=l2
    ):
        logits_NC[held_N] = (features_ND[held_N] @ weight_CD.T + bias_C).numpy()
    return CrossFitted(l2=l2, logits_NC=logits_NC)


def best_probe(
    fit: Callable[[float], CrossFitted],
    given_NC: Choice,
    judged_N: Choice,
    task: str,
) -> CrossFitted:
    """Choose the penalty with the lowest cross-fitted log-loss among `COARSE` and a finer step.

    fit: cross-fits with a penalty. judged_N: rows that count.
    """
    tried: dict[float, tuple[float, CrossFitted]] = {}

    def attempt(l2: float) -> None:
        fitted = fit(l2)
        losses_N = calibrated_losses(fitted.logits_NC[judged_N], given_NC[judged_N], task)
        tried[l2] = (float(losses_N.mean()), fitted)

    for l2 in COARSE:
        attempt(l2)
    centre = min(tried, key=lambda l2: tried[l2][0])
    for l2 in (centre / STEP, centre * STEP):
        attempt(l2)
    return min(tried.values(), key=lambda each: each[0])[1]
