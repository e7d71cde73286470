"""A binary model with a decision threshold: its positive label at 0.5 and as served.

Shape suffixes: N texts, C labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from serve.bundle.binary import DecisionThreshold
from serve.html import Html, paragraph, shortened, table
from serve.inference.decision import Rules
from serve.inference.scores import Array, chosen
from train.report.cells import interval
from train.statistics.intervals import LabelMetrics, measure_labels
from train.statistics.metrics import Choice


@dataclass(frozen=True, kw_only=True)
class BinaryResult:
    """Precision, recall and F1 of the positive label on rows that did not choose the threshold."""

    requested: DecisionThreshold
    at_half: LabelMetrics
    """The label with the higher probability is predicted, as by a stock pipeline."""
    at_threshold: LabelMetrics | None
    """As served; None where no threshold was found, and 0.5 decides."""

    @property
    def rows(self) -> Iterator[tuple[str, LabelMetrics]]:
        """Where the decision is made, and the metrics there."""
        yield "at 0.5", self.at_half
        if self.at_threshold is not None:
            yield f"at the threshold {self.requested.threshold:.4f}", self.at_threshold


def measure_binary(
    rules: Rules, probabilities_NC: Array, reference_NC: Choice, labels: tuple[str, ...]
) -> BinaryResult | None:
    """Measure the positive label; None for a model without a requested threshold."""
    if rules.binary is None or rules.positive is None:
        return None

    def measured(predicted_NC: Choice) -> LabelMetrics:
        return measure_labels(reference_NC, predicted_NC, labels)[rules.positive or 0]

    served = None
    if rules.threshold is not None:
        served = measured(rules.decide(probabilities_NC).predicted_NC)
    half_NC = chosen(probabilities_NC, rules.task)
    return BinaryResult(requested=rules.binary, at_half=measured(half_NC), at_threshold=served)


def decision_parts(result: BinaryResult | None) -> list[Html]:
    """Paragraph and table of the report: the threshold, and what it changes on the test split."""
    if result is None:
        return []
    requested = result.requested
    served = "0.5 decides" if requested.threshold is None else f"from {requested.threshold:.4f}"
    rows = [
        [place, metrics.predicted]
        + [interval(each) for each in (metrics.precision, metrics.recall, metrics.f1)]
        for place, metrics in result.rows
    ]
    return [
        paragraph(
            f"Decision threshold for {requested.positive_label}, {served}: {requested.reason}. "
            "Stock classes and pipelines predict the label with the higher probability, as at 0.5."
        ),
        table(
            ["decided", "predicted", "precision", "recall", "F1"],
            rows,
            kinds=["name", *["number"] * 4],
            caption=f"{shortened(requested.positive_label, 60)} on the test rows",
        ),
    ]
