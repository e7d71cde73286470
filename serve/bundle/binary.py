"""What a manifest records of the decision threshold of a binary model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from serve.config import FrozenModel


class BinaryScores(FrozenModel):
    """How well a binary model predicts its positive label at a threshold."""

    precision: float | None
    """Fraction of the rows predicted positive that are; null if none is predicted."""

    recall: float | None
    """Fraction of the positive rows that are predicted positive; null if there are none."""

    f1: float
    """Harmonic mean of both; 0 where one is null."""

    predicted: int
    """Number of rows predicted positive."""


class DecisionThreshold(FrozenModel):
    """The probability from which a binary model predicts its positive label."""

    positive_label: str
    """The label; the other one is predicted below the threshold."""

    threshold: float | None
    """Smallest probability at which it is predicted; null: none was found, and 0.5 decides."""

    chosen_for: Literal["f1", "precision", "recall", "costs"]
    """What the threshold was chosen for."""

    wish: float | None = None
    """The least precision or recall that is guaranteed."""

    confidence: float | None = None
    """Probability with which the threshold satisfies the wish."""

    costs: dict[str, float] | None = None
    """Costs of a false_positive and a false_negative."""

    reason: str
    """How the threshold was chosen, or why there is none, with the figures."""

    rows: int
    """Number of validation rows that chose it or, for precision, tested it."""

    positives: int
    """Number of those rows that have the positive label."""

    checkpoints: int = 1
    """Number of checkpoints that these rows chose among; a guarantee covers all of them."""

    validation: dict[Literal["at_half", "at_threshold"], BinaryScores] = Field(default_factory=dict)
    """Precision, recall and F1 on all validation rows, at 0.5 and as served."""
