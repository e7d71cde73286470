"""Which of several models is best on rows that none of them saw. Pure.

Models are compared by the log-loss of each row, paired: see `train.statistics.calibrated_loss`.

Shape suffixes: N rows, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from serve.inference.scores import Array, activate, chosen, default_activation
from train.statistics.calibrated_loss import NEGLIGIBLE, SHOWN, advantage, calibrated_losses
from train.statistics.metrics import Choice, Floats

POOLING_SHOWN = 1.28
"""Standard errors from which a gain of mean pooling counts as shown: one-sided 10 %. On a hundred
rows a gain of ten points is 1.5 to 3 standard errors."""


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


def is_shown(better: Candidate, worse: Candidate, errors: float = SHOWN) -> bool:
    """Return whether a lower log-loss is shown: by more than so many standard errors."""
    return advantage(better.losses_N, worse.losses_N) > errors


def best(candidates: Sequence[Candidate]) -> Candidate:
    """Choose the candidate with the lowest log-loss; mean pooling only if its gain is shown.

    Of equal ones the first is chosen: candidates come with the probes, which cost less, in front.
    Without mean pooling the model loads in the stock classes, which is worth more than a gain
    that may be chance.
    """
    least = min(each.log_loss for each in candidates)
    lowest = next(each for each in candidates if each.log_loss <= least + NEGLIGIBLE)
    stock = [each for each in candidates if each.pooling == "native"]
    if lowest.pooling == "native" or not stock:
        return lowest
    rival = min(stock, key=lambda each: each.log_loss)
    return lowest if is_shown(lowest, rival, POOLING_SHOWN) else rival
