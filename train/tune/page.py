"""The results of a search as one HTML page."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from serve.html import (
    Html,
    Tone,
    columns,
    folded,
    key_figures,
    listing,
    page,
    paragraph,
    section,
    shortened,
    table,
)
from train.config.run import RunConfig
from train.config.search_space import decoded
from train.report import plots
from train.report.marks import bar
from train.tune.report import TuneResult

MAX_OPEN_TRIALS = 30
"""Trials that are shown at once, the best first; the others on demand."""


def tune_page(
    result: TuneResult,
    trials: Sequence[FrozenTrial],
    config: RunConfig,
    *,
    maximize: bool,
) -> bytes:
    """Render the page. trials: the finished ones. maximize: whether a high metric is good."""
    keys = list(config.tune.space)
    complete = [each for each in trials if each.state == TrialState.COMPLETE]
    sections = [
        ("next", "Next", _next(result)),
        ("trials", "Trials", _trials(result, trials, complete, keys, maximize)),
        ("importance", "Importance of each key", _importances(result)),
        ("failures", "Failed trials", _failures(result)),
        ("provenance", "Provenance", [_configuration(config)]),
    ]
    shown = [each for each in sections if each[2]]
    counts = ", ".join(f"{number} {state}" for state, number in result.counts.items())
    sentence, tone = verdict(result, complete)
    return page(
        f"Search {shortened(result.study, 80)}",
        [each[:2] for each in shown],
        [_figures(result, complete), *(section(*each[:2], *each[2]) for each in shown)],
        verdict=[sentence],
        tone=tone,
        kind="tune",
        about=[f"{sum(result.counts.values())} trials ({counts or 'none finished'}) over "
               f"{', '.join(keys) or 'no key'}."],
    )  # fmt: skip


def verdict(result: TuneResult, complete: Sequence[FrozenTrial]) -> tuple[str, Tone]:
    """Name the best trial, and what choosing it is worth."""
    best = result.best
    if best is None or best.value is None:
        return "No trial is complete, so there is no best trial.", "bad"
    said = f"Trial {best.number} is the best of {len(complete)} complete ones: {result.metric} "
    said += f"{best.value:.4f} on {result.num_validation:,} validation rows"
    if result.interval:
        low, high = result.interval
        said += f" ({low:.3f} to {high:.3f})"
        close = sum(each.value >= low for each in complete if each is not best and each.value)
        if close:
            said += f"; {close} other trial{'s are' if close > 1 else ' is'} within its interval"
            said += ", so the choice among them may be chance"
    return f"{said}.", "plain"


def _figures(result: TuneResult, complete: Sequence[FrozenTrial]) -> Html:
    values = [each.value for each in complete if each.value is not None]
    if result.best is None or result.best.value is None or not values:
        return key_figures([("complete trials", "0", "")])
    middle, first = statistics.median(values), values[0]
    note = "{:.3f} to {:.3f}".format(*result.interval) if result.interval else "optimistic"
    return key_figures(
        [
            (f"best {result.metric}", f"{result.best.value:.4f}", note),
            ("above the median", f"{result.best.value - middle:+.4f}", f"median {middle:.4f}"),
            ("above the first", f"{result.best.value - first:+.4f}", f"first {first:.4f}"),
            ("complete trials", f"{len(complete)}", f"of {sum(result.counts.values())}"),
        ]
    )


def _next(result: TuneResult) -> list[Html]:
    if result.best is None:
        return []
    return [
        paragraph(
            "The best of many trials on the rows that chose it is optimistic: train it, and "
            "measure it on the test rows."
        ),
        listing(f"textloop run --config {result.best_file}"),
        table(
            ["key", "value of the best trial"],
            [[key, str(decoded(value))] for key, value in result.best.params.items()],
            kinds=["name", "name"],
            caption=f"What {result.best_file.name} changes",
        ),
    ]


def _trials(
    result: TuneResult,
    trials: Sequence[FrozenTrial],
    complete: Sequence[FrozenTrial],
    keys: Sequence[str],
    maximize: bool,
) -> list[Html]:
    if not trials:
        return []
    parts = []
    numbers = [each.number for each in complete if each.value is not None]
    values = [each.value for each in complete if each.value is not None]
    if result.best is not None and len(values) > 1:
        plot = plots.search(numbers, values, result.metric, result.best.number)
        parts = [Html(f"<figure>{plot.svg()}</figure>")]
    sign = -1 if maximize else 1
    ordered = sorted(complete, key=lambda each: sign * (each.value or 0.0))
    ordered += [each for each in trials if each.state != TrialState.COMPLETE]
    shown = _trial_table(result, ordered[:MAX_OPEN_TRIALS], keys, "Trials, the best first")
    if len(ordered) > MAX_OPEN_TRIALS:
        every = _trial_table(result, ordered, keys, "All trials")
        shown = Html(shown + folded(f"All {len(ordered)} trials", every))
    return [columns(*parts, shown)]


def _trial_table(
    result: TuneResult, trials: Sequence[FrozenTrial], keys: Sequence[str], caption: str
) -> Html:
    rows: list[list[Any]] = [
        [
            trial.number,
            trial.state.name.lower(),
            "" if trial.value is None else f"{trial.value:.4f}",
            f"{trial.duration.total_seconds():.0f}" if trial.duration else "",
            *(_value(trial.params.get(key)) for key in keys),
        ]
        for trial in trials
    ]
    best = result.best.number if result.best else None
    return table(
        ["trial", "state", result.metric, "seconds", *keys],
        rows,
        kinds=["number", "", "number", "number", *["number"] * len(keys)],
        classes=["better" if trial.number == best else "" for trial in trials],
        caption=caption,
    )


def _value(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(decoded(value))


def _importances(result: TuneResult) -> list[Html]:
    rows = [[key, f"{share:.2f}", bar(share, 1.0)] for key, share in result.importances.items()]
    if not rows:
        return []
    caption = "Fraction of the metric's variance that each key explains (fANOVA)"
    return [table(["key", "share", ""], rows, kinds=["name", "number", "chart"], caption=caption)]


def _failures(result: TuneResult) -> list[Html]:
    rows = [[reason, number] for reason, number in result.reasons.items()]
    if not rows:
        return []
    caption = "Why trials failed"
    return [table(["reason", "trials"], rows, kinds=["text", "number"], caption=caption)]


def _configuration(config: RunConfig) -> Html:
    values = config.model_dump(mode="json")
    return folded("The configuration", listing(json.dumps(values, indent=2, ensure_ascii=False)))
