"""Labels and verdict of an evaluation, as lines for the terminal. Pure.

Shape suffixes: N texts, C labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from train.data.labels import Labels
from train.evaluation.result import Evaluation, Measurement
from train.statistics.intervals import LabelMetrics
from train.statistics.paired import mcnemar

SHOWN = 5
"""Labels in the table; the others are in the report."""

ALPHA = 0.05
"""Level of the paired test, one-sided."""

_WIDTH = 24


def commonest_answer(labels: Iterable[Labels]) -> Labels:
    """Return the labels that most rows have, the answer that needs no model."""
    counts = Counter(tuple(sorted(row)) for row in labels)
    return max(counts, key=lambda row: (counts[row], row))


def label_lines(measurement: Measurement, positive: str | None) -> Iterator[str]:
    """Precision, recall and F1: of the positive label of a binary task, else of the worst labels.

    Worst are those with the lowest F1; labels without test rows are only counted.
    """
    labels = measurement.metrics.per_label
    if positive is not None:
        label = next(each for each in labels if each.label == positive)
        rows = len(measurement.reference_NC)
        yield (
            f"positive label {_shown(positive)!r} ({label.support} of {rows} rows, predicted for "
            f"{label.predicted}): precision {label.precision:.3f}, recall {label.recall:.3f}, "
            f"F1 {label.f1:.3f}"
        )
        return
    tested = sorted((each for each in labels if each.support), key=_badness)
    shown = [_shown(each.label) for each in tested[:SHOWN]]
    width = max(map(len, ["label", *shown]))
    yield f"{'label':<{width}}  rows  predicted  {'precision':<22}{'recall':<22}F1"
    for name, each in zip(shown, tested, strict=False):
        values = f"{each.precision:.3f}".ljust(22) + f"{each.recall:.3f}".ljust(22)
        yield (f"{name:<{width}}  {each.support:>4}  {each.predicted:>9}  {values}{each.f1:.3f}")
    if len(tested) > SHOWN:
        yield f"these have the lowest F1; {len(tested) - SHOWN} more labels in report.html"
    if untested := len(labels) - len(tested):
        yield f"{untested} labels have no test rows"


def _badness(label: LabelMetrics) -> tuple[float, int, str]:
    return label.f1.value, -label.support, label.label


def verdict_lines(result: Evaluation) -> Iterator[str]:
    """Say if a model is not shown to be right more often than its commonest answer.

    The answer is that of the training rows, so McNemar's exact test on the test rows is fair.
    """
    full, labels = result.full, [each.label for each in result.full.metrics.per_label]
    if not {*result.commonest} <= {*labels}:
        return  # a bundle that was trained on other labels
    constant = [label in result.commonest for label in labels]
    constant_N = (full.reference_NC == constant).all(axis=1)
    gained = int((full.correct_N & ~constant_N).sum())
    lost = int((~full.correct_N & constant_N).sum())
    p_value = mcnemar(gained, lost)
    if p_value <= ALPHA:
        return
    answer = " and ".join(repr(_shown(label)) for label in result.commonest) or "no label"
    what = (
        "accuracy" if result.task == "single_label" else "the share of rows with all labels right"
    )
    compared = (
        f"always answering {answer} is right for {constant_N.mean():.1%} of the rows, the model "
        f"for {full.correct_N.mean():.1%} (paired test, p = {p_value:.2g})"
    )
    auc = full.intervals.get("roc_auc")
    if auc is not None and auc.low is not None and auc.low > 0.5:
        yield (
            f"note: {compared}; but the model tells the labels apart (roc_auc {auc:.3f}), so judge "
            f"it by precision and recall, not by {what}"
        )
    else:
        yield f"verdict: the model is not shown to be of use: {compared}"


def _shown(label: str) -> str:
    plain = "".join(c if c.isprintable() else "?" for c in label)
    return plain if len(plain) <= _WIDTH else plain[: _WIDTH - 3] + "..."
