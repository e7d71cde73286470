"""The result of an evaluation, which `evaluate` returns and `report` presents.

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
from train.data.labels import Labels
from train.evaluation.binary import BinaryResult
from train.evaluation.slices import Slices
from train.statistics.intervals import Metrics
from train.statistics.metrics import Choice


@dataclass(frozen=True, kw_only=True)
class AbstentionResult:
    """Effect of the abstention threshold on rows that it was not chosen on."""

    requested: Abstention
    coverage: Measured
    """Fraction of rows that are answered."""
    risk: Measured | None
    """Selective risk, the error rate on answered rows; None if no row is answered."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Predictions and metrics of a bundle on a split."""

    probabilities_NC: Array
    decision: Decision
    reference_NC: Choice
    metrics: Metrics
    abstention: AbstentionResult | None
    """None where the bundle has no abstention threshold."""
    binary: BinaryResult | None = None
    """None where no threshold of a binary model was requested."""

    @property
    def predicted_NC(self) -> Choice:
        """The labels that the bundle predicts."""
        return self.decision.predicted_NC

    @property
    def intervals(self) -> dict[str, Measured]:
        """The metrics over all labels."""
        return self.metrics.overall

    @property
    def correct_N(self) -> NDArray[np.bool_]:
        """Whether a text got exactly its labels."""
        correct_N: NDArray[np.bool_] = (self.predicted_NC == self.reference_NC).all(axis=1)
        return correct_N


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A bundle on the test split: full precision, and the int8 export where it has one."""

    full: Measurement
    int8: Measurement | None
    difference: Measured | None
    """Accuracy of int8 minus full precision, paired."""
    agreement: float | None
    """Fraction of texts for which both predict the same labels."""
    slices: Slices
    task: str
    positive: str | None
    """The positive label of a binary task."""
    commonest: Labels
    """The labels that most training rows have."""
    directory: Path
