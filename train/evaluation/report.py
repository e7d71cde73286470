"""`report.html`: the result of an evaluation in one self-contained page.

Decides what is shown and in which order. The verdict is in `train.evaluation.verdict`, labels,
confusions, errors and slices in `train.evaluation.evidence`, thresholds, calibration and
abstention in `train.evaluation.probabilities`. The plots are also written next to
the page as PNG, for a model card.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from serve.bundle.manifest import Manifest, Measured
from serve.files import write_atomic
from serve.html import Html, folded, listing, page, paragraph, section, shortened, table
from train.data.splits import Split
from train.evaluation.evidence import (
    confusion_section,
    error_section,
    label_section,
    slice_section,
)
from train.evaluation.figures import draw
from train.evaluation.probabilities import (
    abstention_section,
    calibration_section,
    plots_of,
    threshold_section,
)
from train.evaluation.result import Evaluation
from train.evaluation.verdict import figures, verdict
from train.report.cells import interval, method_name, provenance_table
from train.report.marks import Axis, dots
from train.report.plots import Plot
from train.statistics.probability_metrics import MAX_BINS

NAMES = {
    "accuracy": "accuracy (exact match)",
    "f1_macro": "macro-F1",
    "f1_micro": "micro-F1",
    "f1_weighted": "weighted F1",
    "mcc": "Matthews correlation coefficient",
    "roc_auc": "ROC-AUC, macro one-vs-rest",
    "pr_auc": "average precision, macro one-vs-rest",
    "log_loss": "log-loss in nats",
    "brier": "Brier score",
    "ece": f"expected calibration error (ECE), up to {MAX_BINS} equal-mass bins",
}
"""Display names of the metrics."""

LOWER_IS_BETTER = ("log_loss", "brier", "ece")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What was evaluated, on which rows."""

    manifest: Manifest
    split: Split
    """The rows that were scored."""

    run: str
    """Name of the run, or of the bundle's version."""

    source: str
    """Where the rows come from."""

    log_history: Sequence[dict[str, Any]] = field(default_factory=list)
    """The Trainer's; empty if not available."""


def write_report(result: Evaluation, subject: Subject) -> None:
    """Write `report.html` and the plots into the evaluation's directory."""
    drawn = draw(result.full, subject.manifest, result.positive, subject.log_history)
    for file in result.directory.glob("*.png"):
        if file.stem not in drawn:
            file.unlink()
    for name, plot in drawn.items():
        write_atomic(result.directory / f"{name}.png", plot.png())
    write_atomic(result.directory / "report.html", report_html(result, subject, drawn))


def report_html(result: Evaluation, subject: Subject, drawn: Mapping[str, Plot]) -> bytes:
    """Render the page. drawn: the plots by name, see `train.evaluation.figures.draw`."""
    manifest, split, full = subject.manifest, subject.split, result.full
    labels = manifest.labels
    accuracy = full.intervals["accuracy"].value
    sections = [
        ("metrics", "Metrics", _metrics(result)),
        ("labels", "Labels", label_section(full)),
        (
            "threshold",
            "Precision and recall",
            threshold_section(full, manifest, result.positive, drawn),
        ),
        ("confusion", "Confusion", confusion_section(full, labels)),
        ("errors", "Most confident errors", error_section(full, split, labels)),
        ("slices", "Slices", slice_section(result.slices, accuracy)),
        ("calibration", "Calibration", calibration_section(full, manifest, drawn)),
        ("abstention", "Abstention", abstention_section(manifest, full.abstention, drawn)),
        ("choice", "Choice of the method", _choice(manifest)),
        ("learning", "Learning curve", plots_of(drawn, "learning_curve")),
        ("provenance", "Provenance", _provenance(manifest, split)),
    ]
    shown = [each for each in sections if each[2]]
    sentence, tone = verdict(result)
    base = str(manifest.base_model.get("base", "a model"))
    method = "imported"
    if not manifest.is_imported:
        method = f"method {method_name(manifest)}"
    return page(
        f"{shortened(subject.run, 60)} on {shortened(subject.source, 60)}",
        [(anchor, title) for anchor, title, _ in shown],
        [
            figures(result, manifest),
            *(section(anchor, title, *parts) for anchor, title, parts in shown),
        ],
        verdict=sentence,
        tone=tone,
        kind="Evaluation",
        about=[
            f"`{base}`, {method}, version {manifest.version}; {len(labels)} labels, "
            f"{'one' if manifest.task == 'single_label' else 'any number'} per text; "
            f"{len(split):,} test rows."
        ],
    )


def _choice(manifest: Manifest) -> list[Html]:
    """State what `method: auto` chose and why; nothing for a method that was set."""
    if manifest.choice is None:
        return []
    parts = [paragraph(f"Chosen by `method: auto`: {manifest.choice.get('reason', '')}.")]
    found = manifest.choice.get("candidates", [])
    if found:
        rows = [
            [each["method"], each["pooling"], f"{each['log_loss']:.4f}", f"{each['accuracy']:.4f}"]
            for each in sorted(found, key=lambda each: each["log_loss"])
        ]
        caption = f"On the same {manifest.choice.get('rows', 0):,} rows, the lowest log-loss first"
        kinds = ["", "", "number", "number"]
        head = ["method", "input of the head", "log-loss", "accuracy"]
        parts.append(table(head, rows, kinds=kinds, caption=caption))
    return parts


def _metrics(result: Evaluation) -> list[Html]:
    full, int8 = result.full.intervals, result.int8.intervals if result.int8 else None
    names = [["full precision"], ["full precision", "int8, for CPUs"]][int8 is not None]

    def values(name: str) -> list[Any]:
        return [full[name], *([int8.get(name)] if int8 is not None else [])]

    better = [name for name in full if name not in LOWER_IS_BETTER]
    worse = [name for name in full if name in LOWER_IS_BETTER]
    axis = Axis.unit([each for name in better for each in values(name)])
    parts = [
        table(
            ["metric", *names, axis.head()],
            [[NAMES[name], *map(interval, values(name)), dots(values(name), axis)]
             for name in better],
            kinds=["name", *["number"] * len(names), "chart"],
            caption="The answers: higher is better"
            + ("; filled: full precision, hollow: int8" if int8 else ""),
        ),
        table(
            ["metric", *names, "of a calibrated model"],
            [[NAMES[name], *map(interval, values(name)), _by_chance(full[name])]
             for name in worse],
            kinds=["name", *["number"] * (len(names) + 1)],
            caption="The probabilities: lower is better",
        ),
    ]  # fmt: skip
    if result.difference and result.agreement is not None:
        parts.append(
            paragraph(
                "Accuracy of int8 minus full precision, paired: ",
                interval(result.difference),
                f"; both predict the same labels for {result.agreement:.2%} of the texts.",
            )
        )
    parts.append(
        paragraph(
            "95 % intervals in brackets: Wilson's for accuracy, and for precision, recall and F1 "
            "of a label; the others are approximate (in simulations they hold the true value on "
            "at least 93 % of test sets). They cover the sampling of a test set of this size, not "
            "the variation between training runs. The calibration error of a finite test set is "
            "never 0: it shows miscalibration only where it exceeds what a calibrated model shows.",
            quiet=True,
        )
    )
    return parts


def _by_chance(metric: Measured) -> str:
    return "" if metric.by_chance is None else f"up to {metric.by_chance:.4f}"


def _provenance(manifest: Manifest, split: Split) -> list[Html]:
    facts: list[tuple[str, Any]] = [
        ("version", manifest.version),
        ("base model", manifest.base_model.get("base")),
        ("base revision, or SHA-256 of its weights", manifest.base_model.get("revision")
         or manifest.base_model.get("weights_sha256")),
        ("sealed", manifest.created),
        ("code revision", manifest.code_revision),
        ("test rows", f"{len(split):,}"),
        ("SHA-256 of the test rows", split.fingerprint["sha256"]),
        *((f"SHA-256 of {name}", each["sha256"]) for name, each in manifest.data.items()
          if name != "test"),
        *(("version of " + name, text) for name, text in manifest.versions.items()),
    ]  # fmt: skip
    return [
        provenance_table("Hashes and versions", facts),
        folded(
            "The run's configuration",
            listing(json.dumps(manifest.config, indent=2, ensure_ascii=False)),
        ),
    ]
