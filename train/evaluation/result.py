"""The result of an evaluation, which `evaluate` makes and `report` shows.

Shape suffixes: N texts, C labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serve.bundle.manifest import Abstention, Measured
from serve.inference.decision import Decision
from serve.inference.scores import Array
from train.evaluation.slices import Slices
from train.statistics.intervals import Metrics
from train.statistics.metrics import Choice


@dataclass(frozen=True, kw_only=True)
class AbstentionResult:
    """What the abstention threshold does on rows that it was not chosen on."""

    asked: Abstention
    coverage: Measured
    """Share of rows that are answered."""
    risk: Measured | None
    """Share of the answers that are wrong; None if nothing is answered."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What a predictor does on a split."""

    probabilities_NC: Array
    decision: Decision
    reference_NC: Choice
    metrics: Metrics
    abstention: AbstentionResult | None
    """None where the bundle has no abstention threshold."""

    @property
    def predicted_NC(self) -> Choice:
        """The labels that the bundle predicts."""
        return self.decision.predicted_NC

    @property
    def intervals(self) -> dict[str, Measured]:
        """The metrics of all labels together."""
        return self.metrics.overall

    @property
    def right_N(self) -> NDArray[np.bool_]:
        """Whether a text got exactly its labels."""
        right_N: NDArray[np.bool_] = (self.predicted_NC == self.reference_NC).all(axis=1)
        return right_N


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A bundle on the test split: in full precision, and its int8 export where it has one."""

    full: Measurement
    int8: Measurement | None
    difference: Measured | None
    """Accuracy of int8 minus that of full precision, paired."""
    agreement: float | None
    """Share of texts on which both choose the same labels."""
    slices: Slices
    directory: Path
