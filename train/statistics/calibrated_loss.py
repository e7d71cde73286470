"""The log-loss by which trained models are compared on the same rows. Pure.

It is far less noisy than the accuracy. The logits are divided by the temperature that suits them
best, since `merge` does the same: training on few rows makes a model better and too confident at
once, and its plain log-loss shows the confidence alone.

Shape suffixes: N rows, C labels.
"""

from __future__ import annotations

import math

import numpy as np

from serve.inference.scores import Array, activate, default_activation
from train.statistics.metrics import Choice, Floats
from train.statistics.probability_metrics import log_loss_rows

SHOWN = 1.645
"""Standard errors of the mean difference from which a gain counts as shown: one-sided 5 %."""

NEGLIGIBLE = 1e-4
"""Difference of mean log-losses, in nats, that is taken for none: arithmetic makes such ones, of
one sign in all rows."""

_TEMPERATURES = np.geomspace(0.2, 10.0, 28)


def calibrated_losses(
    logits_NC: Array, given_NC: Choice, task: str, weights_C: Floats | None = None
) -> Floats:
    """Return each row's log-loss, (N,), at the temperature with the lowest mean.

    weights_C: single-label, the weight of each label's rows.
    """
    weight_N = np.ones(len(given_NC))
    if weights_C is not None and task == "single_label":
        weight_N = (given_NC * weights_C).sum(axis=1)
    activation = default_activation(task)
    found = [
        weight_N
        * log_loss_rows(given_NC, activate((logits_NC / t).astype(np.float32), activation), task)
        for t in _TEMPERATURES
    ]
    return min(found, key=lambda losses_N: float(losses_N.mean()))


def advantage(losses_N: Floats, others_N: Floats) -> float:
    """Return by how many standard errors the mean of `losses_N` is lower than of `others_N`.

    0 for a negligible difference.
    """
    difference_N = others_N - losses_N
    if abs(float(difference_N.mean())) <= NEGLIGIBLE:
        return 0.0
    error = float(difference_N.std(ddof=1)) / math.sqrt(len(difference_N))
    return float(difference_N.mean()) / error if error > 0 else 0.0
