"""Which of several models is best on rows that none of them saw. Pure.

Models are compared by the log-loss of each row, paired: it is far less noisy than the accuracy.
Each model's logits are first divided by the temperature that suits them best, as `merge` does,
so that confidence alone decides nothing.

Shape suffixes: N rows, C labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from serve.inference.scores import Array, activate, chosen, default_activation
from train.statistics.metrics import Choice, Floats
from train.statistics.probability_metrics import log_loss_rows

SHOWN = 1.645
"""Standard errors of the mean difference from which a gain counts as shown: one-sided 5 %."""

_TEMPERATURES = np.geomspace(0.2, 10.0, 28)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A way to train, judged on rows that its models did not see."""

    method: str
    pooling: str
    losses_N: Floats
    correct_N: Choice

    @property
    def accuracy(self) -> float:
        """Fraction of the rows with all labels correct."""
        return float(self.correct_N.mean())

    @property
    def log_loss(self) -> float:
        """Mean of the rows' losses, in nats."""
        return float(self.losses_N.mean())

    @property
    def name(self) -> str:
        """The method in words."""
        words = {"probe": "the linear probe", "lora": "LoRA"}[self.method]
        return words + (" on the mean of all tokens" if self.pooling == "mean" else "")

    @property
    def figures(self) -> dict[str, Any]:
        """What is recorded of it."""
        return {
            "method": self.method,
            "pooling": self.pooling,
            "accuracy": self.accuracy,
            "log_loss": self.log_loss,
        }


def judge(
    method: str,
    pooling: str,
    logits_NC: Array,
    given_NC: Choice,
    task: str,
    weights_C: Floats | None = None,
) -> Candidate:
    """Judge a model's logits by the given labels. weights_C: class weights of the loss."""
    correct_N = (chosen(activate(logits_NC, default_activation(task)), task) == given_NC).all(
        axis=1
    )
    return Candidate(
        method=method,
        pooling=pooling,
        losses_N=calibrated_losses(logits_NC, given_NC, task, weights_C),
        correct_N=np.asarray(correct_N),
    )


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


def is_shown(better: Candidate, worse: Candidate) -> bool:
    """Return whether a lower log-loss is shown on these rows."""
    return advantage(better.losses_N, worse.losses_N) > SHOWN


def advantage(losses_N: Floats, others_N: Floats) -> float:
    """Return by how many standard errors the mean of `losses_N` is lower than of `others_N`."""
    difference_N = others_N - losses_N
    error = float(difference_N.std(ddof=1)) / math.sqrt(len(difference_N))
    return float(difference_N.mean()) / error if error > 0 else 0.0


def best(candidates: Sequence[Candidate]) -> Candidate:
    """Choose the candidate with the lowest log-loss; mean pooling only if its gain is shown.

    Without mean pooling the model loads in the stock classes, which is worth more than a gain
    that may be chance.
    """
    lowest = min(candidates, key=lambda each: each.log_loss)
    stock = [each for each in candidates if each.pooling == "native"]
    if lowest.pooling == "native" or not stock:
        return lowest
    rival = min(stock, key=lambda each: each.log_loss)
    return lowest if is_shown(lowest, rival) else rival
