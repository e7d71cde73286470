"""The lines that `textloop evaluate` prints."""

from __future__ import annotations

from collections.abc import Iterator

from serve.bundle.manifest import Measured
from train.evaluation.binary import BinaryResult
from train.evaluation.result import AbstentionResult, Evaluation, Measurement
from train.evaluation.usefulness import constant_answer
from train.statistics.intervals import LabelMetrics
from train.statistics.metrics import shown_name

INTERVALS = "95 % intervals (approximate, except for accuracy)"

SHOWN = 5
"""Labels in the table; the others are in the report."""

_WIDTH = 24


def summary_lines(result: Evaluation) -> Iterator[str]:
    """Metrics of full precision and int8, underperforming slices, and where the results are."""
    yield f"test metrics on {len(result.full.reference_NC)} rows, with {INTERVALS}:"
    yield from _measurement_lines(result.full, result.task)
    if result.full.binary is None:  # else its lines are among the metrics
        yield from label_lines(result.full, result.positive)
    yield from verdict_lines(result)
    if result.int8:
        yield "metrics of the int8 export, which the server runs on CPUs:"
        yield from _measurement_lines(result.int8, result.task)
        accuracy = shown_name("accuracy", result.task)
        yield (
            f"{accuracy} minus full precision {result.difference:+.4f}, paired; "
            f"same labels for {result.agreement:.2%} of the texts"
        )
    for each in result.slices.slices:
        if each.flag == "worse":
            yield (
                f"underperforming slice: {each.by} {each.value}, {each.rows} rows, "
                f"{shown_name('accuracy', result.task)} {each.accuracy}"
            )
    yield f"wrote {result.directory}, see report.html there"


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
    """Say if a model is not shown to be right more often than its commonest answer."""
    constant = constant_answer(result)
    if constant is None or constant.is_beaten:
        return
    answer = " and ".join(repr(_shown(label)) for label in constant.labels) or "no label"
    what = (
        "accuracy" if result.task == "single_label" else "the share of rows with all labels right"
    )
    compared = (
        f"always answering {answer} is right for {constant.share:.1%} of the rows, the model "
        f"for {result.full.correct_N.mean():.1%} (paired test, p = {constant.p_value:.2g})"
    )
    if constant.roc_auc is not None:
        yield (
            f"note: {compared}; but the model tells the labels apart (roc_auc "
            f"{constant.roc_auc:.3f}), so judge it by precision and recall, not by {what}"
        )
    else:
        yield f"verdict: the model is not shown to be of use: {compared}"


def _shown(label: str) -> str:
    plain = "".join(c if c.isprintable() else "?" for c in label)
    return plain if len(plain) <= _WIDTH else plain[: _WIDTH - 3] + "..."


def table(intervals: dict[str, Measured], task: str) -> str:
    """One line per metric: name, value and 95 % interval, as fractions."""
    shown = {shown_name(name, task): metric for name, metric in intervals.items()}
    return "\n".join(f"{name:<{max(12, *map(len, shown))}} {each}" for name, each in shown.items())


def _measurement_lines(measurement: Measurement, task: str) -> Iterator[str]:
    yield table(measurement.intervals, task)
    if measurement.binary:
        yield from _binary_lines(measurement.binary)
    if measurement.abstention:
        yield f"abstention: {_abstention_line(measurement.abstention)}"


def _binary_lines(result: BinaryResult) -> Iterator[str]:
    label = result.requested.positive_label
    for place, metrics in result.rows:
        yield (
            f"{label} {place}: precision {metrics.precision}, recall {metrics.recall}, "
            f"F1 {metrics.f1}"
        )
    if result.at_threshold is None:
        yield f"no decision threshold, 0.5 decides: {result.requested.reason}"


def _abstention_line(result: AbstentionResult) -> str:
    requested = result.requested
    return (
        f"coverage {result.coverage}, selective risk {result.risk or 'undefined'}; requested: at "
        f"most {requested.max_risk:g} at confidence {requested.risk_confidence:g}"
    )
