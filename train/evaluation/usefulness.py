"""Whether a model is of more use than one answer for every text. Pure.

Shape suffixes: N texts, C labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from train.data.labels import Labels
from train.evaluation.result import Evaluation
from train.statistics.paired import mcnemar

ALPHA = 0.05
"""Level of the paired test, one-sided."""


@dataclass(frozen=True, kw_only=True)
class ConstantAnswer:
    """The labels that most training rows have, as an answer to each test text."""

    labels: Labels
    share: float
    """Fraction of the test rows for which it is right."""
    p_value: float
    """Of McNemar's exact test that the model is right no more often."""
    roc_auc: float | None
    """The model's, if its interval shows that the model tells the labels apart."""

    @property
    def is_beaten(self) -> bool:
        """Whether the model is shown to be right more often."""
        return self.p_value <= ALPHA


def commonest_answer(labels: Iterable[Labels]) -> Labels:
    """Return the labels that most rows have, the answer that needs no model."""
    counts = Counter(tuple(sorted(row)) for row in labels)
    return max(counts, key=lambda row: (counts[row], row))


def constant_answer(result: Evaluation) -> ConstantAnswer | None:
    """Compare the model with the commonest answer; None if it was trained on other labels.

    The answer is that of the training rows, so the test on the test rows is fair.
    """
    full, labels = result.full, [each.label for each in result.full.metrics.per_label]
    if not {*result.commonest} <= {*labels}:
        return None
    constant_C = [label in result.commonest for label in labels]
    constant_N = (full.reference_NC == constant_C).all(axis=1)
    gained = int((full.correct_N & ~constant_N).sum())
    lost = int((~full.correct_N & constant_N).sum())
    auc = full.intervals.get("roc_auc")
    tells_apart = auc is not None and auc.low is not None and auc.low > 0.5
    return ConstantAnswer(
        labels=result.commonest,
        share=float(constant_N.mean()),
        p_value=mcnemar(gained, lost),
        roc_auc=auc.value if auc is not None and tells_apart else None,
    )
