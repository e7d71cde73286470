"""Figures of an evaluation as PNG.

Figures are drawn with the Agg backend: no display, no global state.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from serve.stats import wilson
from train.statistics.probability_metrics import Bins
from train.statistics.selective import RiskCurve

BLUE, ORANGE, GREY = "#2563a8", "#c2571a", "#8a8f98"
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,  # a label may hold dollar signs
}
MAX_NAMED = 40
"""Maximum number of labels that the heat map names."""


@rc_context(STYLE)
def reliability(bins: Bins, whose: str) -> bytes:
    """Draw observed frequency against predicted probability, with Wilson's interval per bin."""
    figure, axes = _figure(4.6, 4.2)
    hits_B = np.rint(bins.observed_frequency_B * bins.count_B).astype(int)
    ends = [wilson(int(h), int(n)) for h, n in zip(hits_B, bins.count_B, strict=True)]
    low_B, high_B = (np.array(each) for each in zip(*ends, strict=True))
    spread = np.clip(
        [bins.observed_frequency_B - low_B, high_B - bins.observed_frequency_B], 0, None
    )
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--")
    axes.errorbar(
        bins.mean_predicted_B,
        bins.observed_frequency_B,
        yerr=spread,
        color=BLUE,
        marker="o",
        markersize=4,
        linewidth=1,
        capsize=2,
    )
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
    axes.set(xlabel=f"mean predicted probability {whose}", ylabel="observed frequency")
    axes.set_aspect("equal")
    return _png(figure)


@rc_context(STYLE)
def risk_coverage(
    curve: RiskCurve, point: tuple[float, float] | None, limit: float | None
) -> bytes:
    """Draw selective risk against coverage. point: coverage and risk at the threshold."""
    figure, axes = _figure(5.6, 3.6)
    axes.plot(curve.coverage_K, curve.risk_K, color=BLUE, linewidth=1.2)
    if limit is not None:
        axes.axhline(limit, color=GREY, linewidth=1, linestyle="--")
        axes.annotate("maximum risk", (0, limit), va="bottom", color=GREY)
    if point is not None:
        axes.plot(*point, color=ORANGE, marker="o", markersize=6, linestyle="none")
        axes.annotate("threshold", point, (6, 6), textcoords="offset points", color=ORANGE)
    axes.set(xlim=(0, 1), xlabel="coverage", ylabel="selective risk")
    axes.set_ylim(bottom=0)
    return _png(figure)


@rc_context(STYLE)
def confusion(matrix_CC: NDArray[np.int64], labels: Sequence[str]) -> bytes:
    """Draw a heat map of a confusion matrix; each row is a true label, divided by its sum."""
    many = len(labels) > MAX_NAMED
    size = 6.5 if many else max(3.6, min(9.0, 1.8 + 0.28 * len(labels)))
    figure, axes = _figure(size, size)
    fraction_CC = matrix_CC / np.maximum(matrix_CC.sum(axis=1, keepdims=True), 1)
    # Colours follow the square root of the fraction: rare confusions would be invisible.
    image = axes.imshow(
        fraction_CC, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest"
    )
    figure.colorbar(image, ax=axes, shrink=0.6, label="fraction of the true label's rows")
    if many:
        axes.set(xlabel="predicted label (number)", ylabel="true label (number)")
    else:
        short = [label if len(label) <= 24 else f"{label[:23]}…" for label in labels]
        axes.set_xticks(range(len(labels)), short, rotation=90)
        axes.set_yticks(range(len(labels)), short)
        axes.set(xlabel="predicted", ylabel="true")
    return _png(figure)


@rc_context(STYLE)
def learning_curve(log_history: Sequence[dict[str, Any]], metric: str) -> bytes | None:
    """Draw training loss, validation loss and a validation metric by epoch; None without any."""
    series: dict[str, tuple[list[float], list[float]]] = {}
    for entry in log_history:
        for key in ("loss", "eval_loss", f"eval_{metric}"):
            if key in entry and "epoch" in entry:
                epochs, values = series.setdefault(key, ([], []))
                # At the end the best checkpoint is evaluated again, under the last epoch.
                if entry["epoch"] not in epochs:
                    epochs.append(float(entry["epoch"]))
                    values.append(float(entry[key]))
    if not series:
        return None
    figure, axes = _figure(5.6, 3.6)
    styles: dict[str, Any] = {
        "loss": {"color": GREY, "label": "training loss"},
        "eval_loss": {"color": BLUE, "label": "validation loss", "marker": "o", "markersize": 4},
    }
    for key, style in styles.items():
        if key in series:
            axes.plot(*series[key], linewidth=1.2, **style)
    axes.set(xlabel="epoch", ylabel="loss")
    handles, names = axes.get_legend_handles_labels()
    if f"eval_{metric}" in series:
        right = axes.twinx()
        right.spines["right"].set_visible(True)
        right.set_ylabel(f"validation {metric}", color=ORANGE)
        line = right.plot(
            *series[f"eval_{metric}"], color=ORANGE, marker="s", markersize=4, linewidth=1.2
        )
        handles, names = [*handles, *line], [*names, f"validation {metric}"]
    figure.legend(handles, names, frameon=False, loc="outside upper center", ncols=3)
    return _png(figure)


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    """Create a figure of a size in inches, and its axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        # Labels in scripts that the built-in font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", r"Glyph .* missing from", UserWarning)
        figure.savefig(file, format="png", dpi=120)
    return file.getvalue()
