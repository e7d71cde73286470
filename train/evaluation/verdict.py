"""The verdict of an evaluation in one sentence, and its key figures.

Shape suffixes: N texts, C labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from serve.bundle.manifest import Manifest
from serve.html import Html, Tone, key_figures, name
from train.data.splits import Split
from train.evaluation.result import Evaluation, Measurement
from train.report.cells import ends, percent, percent_range
from train.statistics.intervals import LabelMetrics


@dataclass(frozen=True, kw_only=True)
class Constant:
    """The best answer that does not look at the text."""

    labels: tuple[str, ...]
    share: float
    """Fraction of the rows for which it is right."""

    @property
    def shown(self) -> str:
        """Its labels, for a sentence."""
        return " and ".join(name(label, 40) for label in self.labels) or "no label"


def best_constant(labels: Sequence[Sequence[str]]) -> Constant:
    """The labels that most rows have, and the share of those rows."""
    counts = Counter(tuple(sorted(row)) for row in labels)
    best, rows = counts.most_common(1)[0]
    return Constant(labels=best, share=rows / len(labels))


def weakest_label(full: Measurement) -> LabelMetrics | None:
    """The label with the lowest recall, the largest of equals; None if no true label is missed."""
    present = [each for each in full.metrics.per_label if each.support]
    worst = min(present, key=lambda each: (each.recall.value, -each.support), default=None)
    return worst if worst is not None and worst.recall.value < 1 else None


def verdict(full: Measurement, split: Split, task: str) -> tuple[list[object], Tone]:
    """State how many texts are right, whether a constant answer does as well, and the weakness."""
    accuracy, rows = full.intervals["accuracy"], len(split)
    how_many = "all" if full.correct_N.all() else f"{percent(accuracy.value)} of"
    of_rows = f"{how_many} {rows:,} test texts"
    parts: list[object] = [
        f"Answers {of_rows} right"
        if task == "single_label"
        else f"Gets every label right for {of_rows}"
    ]
    parts.append(f" ({percent_range(accuracy)})")
    if task == "multi_label":
        parts.append(f"; micro-F1 {full.intervals['f1_micro'].value:.2f}")
    constant, tone = best_constant(split.labels), "plain"
    if accuracy.value <= constant.share:
        tone = "bad"
        parts += ["; no better than always answering ", Html(constant.shown)]
        parts.append(f", which is right for {percent(constant.share)}")
    elif accuracy.low is not None and accuracy.low <= constant.share:
        parts += ["; not shown to be better than always answering ", Html(constant.shown)]
        parts.append(f" ({percent(constant.share)})")
    if weakest := weakest_label(full):
        parts += ["; weakest label: ", Html(f"<b>{name(weakest.label)}</b>")]
        parts.append(
            f", recall {weakest.recall.value:.2f} on {weakest.support:,} "
            f"row{'s' if weakest.support > 1 else ''}"
        )
    return [*parts, "."], "bad" if tone == "bad" else "plain"


def figures(result: Evaluation, manifest: Manifest, split: Split) -> Html:
    """The figures that are looked for first."""
    full, single = result.full, manifest.task == "single_label"
    f1 = "f1_macro" if single else "f1_micro"
    constant = best_constant(split.labels)
    shown: list[tuple[str, object, object]] = [
        ("accuracy" if single else "all labels right", percent(full.intervals["accuracy"].value),
         percent_range(full.intervals["accuracy"])),
        (f1.replace("f1_", "") + "-F1", f"{full.intervals[f1].value:.3f}",
         ends(full.intervals[f1])),
        ("without a model", percent(constant.share), Html(f"always {constant.shown}")),
    ]  # fmt: skip
    ece = full.intervals["ece"]
    chance = f"by chance up to {ece.by_chance:.3f}" if ece.by_chance is not None else ends(ece)
    shown.append(("calibration error", f"{ece.value:.3f}", chance))
    if result.difference and result.agreement is not None:
        points = f"{100 * result.difference.value:+.1f} points"
        shown.append(("int8, for CPUs", points, f"same labels for {percent(result.agreement)}"))
    if full.abstention:
        risk = full.abstention.risk
        wrong = f"{percent(risk.value)} of them wrong" if risk else "no text"
        shown.append(("answered", percent(full.abstention.coverage.value), wrong))
    return key_figures(shown)
