"""Compare evaluated runs with the first of them, on the same test rows. Pure.

The difference of each other run to the first has an interval and an exact test (McNemar); over all
runs the p-values are adjusted by Holm's procedure. Runs with other test rows are shown, but not
compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from serve.html import shortened
from train.compare.runs import RunResult
from train.gate.changes import Change, find_changes
from train.gate.guards import holm
from train.statistics.comparison import Accuracy, decide

ALPHA = 0.05

MAX_NAME = 40
"""Characters of a run's name in the verdict."""

LISTED = 3
"""Runs that the verdict names of each finding; the table has all."""

Finding = Literal["better", "worse", "not distinguishable"]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A run against the first one."""

    run: RunResult
    accuracy: Accuracy
    """The interval has 2.5 % error on each side."""

    finding: Finding
    """Whether it is better or worse, at a family-wise error of 5 %."""

    changes: list[Change]
    """Texts with another answer; `champion` is the first run."""


@dataclass(frozen=True, kw_only=True)
class LabelRecall:
    """Recall of one label under each run; None where a run does not know it."""

    label: str
    rows: int
    recalls: tuple[float | None, ...]

    @property
    def spread(self) -> float:
        """Largest minus smallest."""
        known = [each for each in self.recalls if each is not None]
        return max(known) - min(known)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All runs, and what is known of their differences."""

    runs: list[RunResult]
    differences: list[Difference]
    """Of the runs with the first one's test rows."""

    others: list[RunResult]
    """Runs with other test rows, or another task."""

    labels: list[LabelRecall]
    """Of the runs with the same test rows, the largest spread first."""

    settings: dict[str, tuple[Any, ...]]
    """Settings in which runs differ: one value per run."""


def compare(runs: Sequence[RunResult]) -> Comparison:
    """Compare runs with the first one. Raises ValueError for fewer than two."""
    if len(runs) < 2:
        raise ValueError("name two runs or more to compare")
    first, *rest = runs
    same = [each for each in rest if _comparable(each, first)]
    return Comparison(
        runs=list(runs),
        differences=_differences(first, same),
        others=[each for each in rest if each not in same],
        labels=_labels([first, *same]),
        settings=_settings(runs),
    )


def _comparable(run: RunResult, first: RunResult) -> bool:
    return run.test == first.test and run.manifest.task == first.manifest.task


def _differences(first: RunResult, others: Sequence[RunResult]) -> list[Difference]:
    accuracies = [
        decide(*(_correct(each) for each in (first, run)), alpha=ALPHA / 2, margin=0.5).accuracy
        for run in others
    ]
    two_sided = [min(1.0, 2 * min(each.p_superior, each.p_inferior)) for each in accuracies]
    shown = holm(np.array(two_sided), ALPHA).tolist() if others else []
    found: list[Difference] = []
    for run, accuracy, is_shown in zip(others, accuracies, shown, strict=True):
        better: Finding = "better" if accuracy.difference > 0 else "worse"
        labels = tuple(dict.fromkeys([*first.manifest.labels, *run.manifest.labels]))
        changes = find_changes(
            first.split(),
            first.predictions(labels),
            run.predictions(labels),
            labels=labels,
            task=first.manifest.task,
            new_labels=(),
            predicted_new=np.zeros((len(first.rows), 0), dtype=bool),
        )
        found.append(
            Difference(
                run=run,
                accuracy=accuracy,
                finding=better if is_shown else "not distinguishable",
                changes=changes,
            )
        )
    return found


def _correct(run: RunResult) -> Any:
    return np.array([row["correct"] for row in run.rows], dtype=bool)


def _labels(runs: Sequence[RunResult]) -> list[LabelRecall]:
    labels = tuple(dict.fromkeys(label for run in runs for label in run.manifest.labels))
    sides = [run.predictions(labels) for run in runs]
    reference_NC = sides[0].reference_NC
    found = []
    for c, label in enumerate(labels):
        rows_N = reference_NC[:, c]
        if not rows_N.any():
            continue
        recalls = tuple(
            float(side.predicted_NC[rows_N, c].mean()) if label in run.manifest.labels else None
            for run, side in zip(runs, sides, strict=True)
        )
        found.append(LabelRecall(label=label, rows=int(rows_N.sum()), recalls=recalls))
    return sorted(found, key=lambda each: -each.spread)


def _settings(runs: Sequence[RunResult]) -> dict[str, tuple[Any, ...]]:
    each_run = [run.settings for run in runs]
    keys = dict.fromkeys(key for settings in each_run for key in settings)
    values = {key: tuple(settings.get(key) for settings in each_run) for key in keys}
    return {key: found for key, found in values.items() if any(v != found[0] for v in found)}


def verdict(comparison: Comparison) -> str:
    """State in one sentence which run is better than the first, as far as that is shown."""
    first = shortened(comparison.runs[0].name, MAX_NAME)
    parts = []
    for finding, words in (
        ("better", "better than"),
        ("worse", "worse than"),
        ("not distinguishable", "not distinguishable from"),
    ):
        found = [each for each in comparison.differences if each.finding == finding]
        if found:
            shown = [
                f"{shortened(each.run.name, MAX_NAME)} ({points(each.accuracy)})" for each in found
            ]
            parts.append(f"{words} {first}: {_listed(shown)}")
    if comparison.others:
        names = [shortened(each.name, MAX_NAME) for each in comparison.others]
        parts.append(f"not comparable, since scored on other test rows: {_listed(names)}")
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def points(accuracy: Accuracy) -> str:
    """Format a difference of accuracies, in points."""
    low, high = 100 * accuracy.low, 100 * accuracy.high
    return f"{100 * accuracy.difference:+.1f} points, {low:+.1f} to {high:+.1f}"
