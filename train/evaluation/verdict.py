"""The verdict of an evaluation in one sentence, and its key figures.

Shape suffixes: N texts, C labels.
"""

from __future__ import annotations

from serve.bundle.manifest import Manifest
from serve.html import Html, Tone, key_figures, name
from train.evaluation.result import Evaluation, Measurement
from train.evaluation.usefulness import ConstantAnswer, constant_answer
from train.report.cells import ends, percent, percent_range
from train.statistics.intervals import LabelMetrics


def weakest_label(full: Measurement) -> LabelMetrics | None:
    """The label with the lowest recall, the largest of equals; None if no true label is missed."""
    present = [each for each in full.metrics.per_label if each.support]
    worst = min(present, key=lambda each: (each.recall.value, -each.support), default=None)
    return worst if worst is not None and worst.recall.value < 1 else None


def verdict(result: Evaluation) -> tuple[list[object], Tone]:
    """State how many texts are right, whether a constant answer does as well, and the weakness."""
    full = result.full
    accuracy, rows = full.intervals["accuracy"], len(full.correct_N)
    how_many = "all" if full.correct_N.all() else f"{percent(accuracy.value)} of"
    of_rows = f"{how_many} {rows:,} test texts"
    parts: list[object] = [
        f"Answers {of_rows} right"
        if result.task == "single_label"
        else f"Gets every label right for {of_rows}"
    ]
    parts.append(f" ({percent_range(accuracy)})")
    if result.task == "multi_label":
        parts.append(f"; micro-F1 {full.intervals['f1_micro'].value:.2f}")
    constant, tone = constant_answer(result), "plain"
    if constant is not None and not constant.is_beaten:
        parts += ["; not shown to be better than always answering ", _answer(constant)]
        parts.append(f" ({percent(constant.share)})")
        if constant.roc_auc is not None:
            parts.append(f", though it tells the labels apart (ROC AUC {constant.roc_auc:.2f})")
        else:
            tone = "bad"
    if weakest := weakest_label(full):
        parts += ["; weakest label: ", Html(f"<b>{name(weakest.label)}</b>")]
        parts.append(
            f", recall {weakest.recall.value:.2f} on {weakest.support:,} "
            f"row{'s' if weakest.support > 1 else ''}"
        )
    return [*parts, "."], "bad" if tone == "bad" else "plain"


def _answer(constant: ConstantAnswer) -> Html:
    return Html(" and ".join(name(label, 40) for label in constant.labels) or "no label")


def figures(result: Evaluation, manifest: Manifest) -> Html:
    """The figures that are looked for first."""
    full, single = result.full, manifest.task == "single_label"
    f1 = "f1_macro" if single else "f1_micro"
    shown: list[tuple[str, object, object]] = [
        ("accuracy" if single else "all labels right", percent(full.intervals["accuracy"].value),
         percent_range(full.intervals["accuracy"])),
        (f1.replace("f1_", "") + "-F1", f"{full.intervals[f1].value:.3f}",
         ends(full.intervals[f1])),
    ]  # fmt: skip
    if constant := constant_answer(result):
        answer = Html(f"always {_answer(constant)}")
        shown.append(("without a model", percent(constant.share), answer))
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
