"""The lines that `textloop evaluate` prints."""

from __future__ import annotations

from collections.abc import Iterator

from serve.bundle.manifest import Measured
from train.evaluation.binary import BinaryResult
from train.evaluation.console import label_lines, verdict_lines
from train.evaluation.result import AbstentionResult, Evaluation, Measurement
from train.statistics.metrics import shown_name

INTERVALS = "95 % intervals (approximate, except for accuracy)"


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
