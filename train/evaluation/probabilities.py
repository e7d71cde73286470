"""Sections of an evaluation's report about thresholds, calibration and abstention."""

from __future__ import annotations

from collections.abc import Mapping

from serve.bundle.manifest import Manifest
from serve.html import Html, columns, folded, paragraph, shortened, table
from train.evaluation.binary import decision_parts
from train.evaluation.figures import bins_of, requested_abstention
from train.evaluation.result import AbstentionResult, Measurement
from train.report.cells import interval
from train.report.plots import Plot, bin_intervals


def threshold_section(
    full: Measurement, manifest: Manifest, positive: str | None, drawn: Mapping[str, Plot]
) -> list[Html]:
    """Precision and recall of the positive label of a binary task; empty for other tasks."""
    if positive is None or "precision_recall" not in drawn:
        return []
    if full.binary is not None:
        decided = Html("".join(decision_parts(full.binary)))
        return [columns(decided, *plots_of(drawn, "precision_recall"))]
    column = manifest.labels.index(positive)
    metrics = full.metrics.per_label[column]
    rows = [
        [name, interval(metric, ".3f")]
        for name, metric in (
            ("precision", metrics.precision),
            ("recall", metrics.recall),
            ("F1", metrics.f1),
        )
    ]
    return [
        columns(
            table(
                [f"of {shortened(positive, 60)}", "as decided"],
                rows,
                kinds=["name", "number"],
                caption=f"The positive label: {metrics.support:,} rows have it, "
                f"{metrics.predicted:,} are predicted to",
            ),
            *plots_of(drawn, "precision_recall"),
        )
    ]


def calibration_section(
    full: Measurement, manifest: Manifest, drawn: Mapping[str, Plot]
) -> list[Html]:
    """The reliability of the probabilities on the test rows, and what was fitted."""
    bins = bins_of(full, manifest)
    low_B, high_B = bin_intervals(bins)
    rows = [
        [f"{predicted:.3f}", f"{observed:.3f}", f"{low:.3f} to {high:.3f}", f"{count:,}"]
        for predicted, observed, low, high, count in zip(
            bins.mean_predicted_B, bins.observed_frequency_B, low_B, high_B, bins.count_B,
            strict=True,
        )
    ]  # fmt: skip
    counted = table(
        ["predicted", "observed", "95 % interval", "predictions"],
        rows,
        kinds=["number"] * 4,
        caption="Predicted probability and observed frequency on the test rows, by bin",
    )
    return [
        columns(
            Html(
                "".join(plots_of(drawn, "reliability"))
                + paragraph(
                    "Points on the diagonal are perfectly calibrated; the bars are 95 % "
                    "intervals per bin.",
                    quiet=True,
                )
            ),
            Html(counted + "".join(_fitted(manifest))),
        )
    ]


def _fitted(manifest: Manifest) -> list[Html]:
    fitted = manifest.calibration
    if fitted is None:
        return [paragraph("Not calibrated: the configuration requested no calibration.")]
    is_folded = ", folded into the last layer" if fitted.temperature != 1.0 else ""
    parts = [
        table(
            ["", "before", "after calibration"],
            [
                ["log-loss", fitted.log_loss_before, fitted.log_loss_after],
                ["expected calibration error", fitted.ece_before, fitted.ece_after],
            ],
            kinds=["name", "number", "number"],
            caption=f"On {fitted.rows:,} validation rows",
        ),
        paragraph(
            f"Temperature {fitted.temperature:.4f}{is_folded}. "
            + " ".join(f"{note[0].upper()}{note[1:]}." for note in fitted.notes)
        ),
    ]
    if fitted.thresholds:
        rows = list(zip(manifest.labels, fitted.thresholds, strict=True))
        thresholds = table(
            ["label", "threshold"], rows, kinds=["name", "number"], caption="Decision thresholds"
        )
        parts.append(folded(f"Thresholds of {len(rows)} labels", thresholds))
    return parts


def abstention_section(
    manifest: Manifest, result: AbstentionResult | None, drawn: Mapping[str, Plot]
) -> list[Html]:
    """The abstention threshold, and what it does on the test rows."""
    requested = requested_abstention(manifest)
    if requested is None:
        text = paragraph(
            "The model never abstains: `calibration.max_risk` was not set. The curve shows the "
            "error rate among the answered texts (the selective risk) if only the surest were "
            "answered, by their fraction (the coverage)."
        )
        return (
            [columns(text, *plots_of(drawn, "risk_coverage"))]
            if "risk_coverage" in drawn
            else [text]
        )
    parts = [paragraph(f"{requested.reason[0].upper()}{requested.reason[1:]}.")]
    if result is not None:
        parts.append(
            table(
                ["", "measured"],
                [
                    ["coverage (fraction of texts answered)", interval(result.coverage)],
                    ["selective risk (error rate on answered texts)", interval(result.risk)],
                ],
                kinds=["name", "number"],
                caption="On the test rows",
            )
        )
    parts.append(
        paragraph(
            "The guarantee is over the draw of the validation rows that tested the threshold. "
            "They chose nothing else but the checkpoint, which it allows for; it does not allow "
            "for settings that were tuned on these rows.",
            quiet=True,
        )
    )
    return [columns(Html("".join(parts)), *plots_of(drawn, "risk_coverage"))]


def plots_of(drawn: Mapping[str, Plot], *names: str) -> list[Html]:
    """The plots of these names that were drawn."""
    return [Html(f"<figure>{drawn[name].svg()}</figure>") for name in names if name in drawn]
