"""The lines that `textloop evaluate` prints."""

from __future__ import annotations

from collections.abc import Iterator

from serve.bundle.manifest import Measured
from train.evaluation.result import AbstentionResult, Evaluation, Measurement

INTERVALS = "95 % intervals (approximate, except for accuracy)"


def summary_lines(result: Evaluation) -> Iterator[str]:
    """Metrics of full precision and int8, underperforming slices, and where the results are."""
    yield f"test metrics on {len(result.full.reference_NC)} rows, with {INTERVALS}:"
    yield from _measurement_lines(result.full)
    if result.int8:
        yield "metrics of the int8 export, which the server runs on CPUs:"
        yield from _measurement_lines(result.int8)
        yield (
            f"accuracy minus full precision {result.difference:+.4f}, paired; "
            f"same labels for {result.agreement:.2%} of the texts"
        )
    for each in result.slices.slices:
        if each.flag == "worse":
            yield (
                f"underperforming slice: {each.by} {each.value}, {each.rows} rows, "
                f"accuracy {each.accuracy}"
            )
    yield f"wrote {result.directory}, see report.html there"


def table(intervals: dict[str, Measured]) -> str:
    """One line per metric: name, value and 95 % interval, as fractions."""
    return "\n".join(f"{name:<12} {metric}" for name, metric in intervals.items())


def _measurement_lines(measurement: Measurement) -> Iterator[str]:
    yield table(measurement.intervals)
    if measurement.abstention:
        yield f"abstention: {_abstention_line(measurement.abstention)}"


def _abstention_line(result: AbstentionResult) -> str:
    requested = result.requested
    return (
        f"coverage {result.coverage}, selective risk {result.risk or 'undefined'}; requested: at "
        f"most {requested.max_risk:g} at confidence {requested.risk_confidence:g}"
    )
