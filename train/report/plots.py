"""Plots of training's reports. Each is drawn once: as SVG for a page, as PNG for a model card.

They are drawn with the Agg and SVG backends: no display, no global state.

Shape suffixes: T trials.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from serve.html import Html
from serve.stats import wilson
from train.report.svg import inline_svg
from train.statistics.probability_metrics import Bins
from train.statistics.selective import RiskCurve
from train.statistics.thresholds import PrecisionRecallCurve

TEXT, BLUE, ORANGE, GREY = "#1b2430", "#2563a8", "#b4500f", "#566170"
VARIABLES = {TEXT: "text", BLUE: "series", ORANGE: "accent", GREY: "quiet"}
"""The variable of the page's stylesheet for each colour of a plot."""

STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": TEXT,
    "axes.titlesize": 9,
    "legend.labelcolor": TEXT,
    "text.color": TEXT,
    "xtick.color": GREY,
    "xtick.labelcolor": TEXT,
    "ytick.color": GREY,
    "ytick.labelcolor": TEXT,
    "text.parse_math": False,  # a label may hold dollar signs
}


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A drawn plot."""

    figure: Figure
    name: str
    title: str
    description: str
    """What it shows, for those who do not see it."""

    def svg(self) -> Html:
        """Render it for a page."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"Glyph .* missing from", UserWarning)
            return inline_svg(self.figure, self.name, self.title, self.description, VARIABLES)

    def png(self) -> bytes:
        """Render it for a model card."""
        file = io.BytesIO()
        with warnings.catch_warnings():
            # Names in scripts that the built-in font lacks are drawn as boxes.
            warnings.filterwarnings("ignore", r"Glyph .* missing from", UserWarning)
            self.figure.savefig(file, format="png", dpi=160)
        return file.getvalue()


@rc_context(STYLE)
def reliability(bins: Bins, whose: str) -> Plot:
    """Draw observed frequency against predicted probability, with Wilson's interval per bin."""
    figure, axes = _figure(4.0, 3.7)
    low_B, high_B = bin_intervals(bins)
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
        linewidth=1.2,
        capsize=2,
    )
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
    axes.set(xlabel=f"mean predicted probability {whose}", ylabel="observed frequency")
    axes.set_aspect("equal")
    return Plot(
        figure=figure,
        name="reliability",
        title="Reliability diagram",
        description=f"Observed frequency against predicted probability in {len(bins.count_B)} "
        f"bins; the expected calibration error is {bins.ece:.4f}.",
    )


def bin_intervals(bins: Bins) -> tuple[Any, Any]:
    """Lower and upper ends of Wilson's 95 % interval of each bin's observed frequency."""
    hits_B = np.rint(bins.observed_frequency_B * bins.count_B).astype(int)
    ends = [wilson(int(h), int(n)) for h, n in zip(hits_B, bins.count_B, strict=True)]
    low_B, high_B = (np.array(each) for each in zip(*ends, strict=True))
    return low_B, high_B


@rc_context(STYLE)
def precision_recall(
    curve: PrecisionRecallCurve, label: str, point: tuple[float, float], share: float
) -> Plot:
    """Draw precision against recall of a label. point: recall and precision of the answers.

    share: fraction of the rows that have the label, the precision of guessing.
    """
    figure, axes = _figure(4.2, 3.2)
    axes.step(curve.recall_K, curve.precision_K, color=BLUE, linewidth=1.4, where="pre")
    axes.axhline(share, color=GREY, linewidth=1, linestyle="--")
    axes.annotate("guessing", (0.01, share), (0, 3), textcoords="offset points", color=GREY)
    axes.plot(*point, color=ORANGE, marker="o", markersize=6, linestyle="none")
    left = point[0] > 0.5
    axes.annotate(
        "threshold",
        point,
        (-8 if left else 8, 6 if point[1] < 0.9 else -13),
        textcoords="offset points",
        color=ORANGE,
        ha="right" if left else "left",
    )
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    return Plot(
        figure=figure,
        name="precision_recall",
        title=f"Precision and recall of {label}",
        description=f"At the threshold the precision is {point[1]:.2f} and the recall "
        f"{point[0]:.2f}; {share:.2f} of the rows have the label.",
    )


@rc_context(STYLE)
def risk_coverage(curve: RiskCurve, point: tuple[float, float] | None, limit: float | None) -> Plot:
    """Draw selective risk against coverage. point: coverage and risk at the threshold."""
    figure, axes = _figure(4.2, 3.0)
    axes.plot(curve.coverage_K, curve.risk_K, color=BLUE, linewidth=1.4)
    axes.set(xlim=(0, 1), xlabel="coverage", ylabel="selective risk")
    axes.set_ylim(0, max(axes.get_ylim()[1], 1.15 * (limit or 0.0)))
    if limit is not None:
        axes.axhline(limit, color=GREY, linewidth=1, linestyle="--")
        place = (0.01, limit)
        axes.annotate("maximum risk", place, (0, 3), textcoords="offset points", color=GREY)
    if point is not None:
        left = point[0] > 0.7
        axes.plot(*point, color=ORANGE, marker="o", markersize=6, linestyle="none")
        axes.annotate(
            "threshold",
            point,
            (-7 if left else 7, 6),
            textcoords="offset points",
            color=ORANGE,
            ha="right" if left else "left",
        )
    return Plot(
        figure=figure,
        name="risk_coverage",
        title="Risk-coverage curve",
        description=f"Error rate among the answered texts by the fraction answered; answering "
        f"all of them it is {float(curve.risk_K[-1]):.3f}.",
    )


@rc_context(STYLE)
def learning_curve(log_history: Sequence[dict[str, Any]], metric: str) -> Plot | None:
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
    figure, axes = _figure(4.4, 3.2)
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
    figure.legend(handles, names, frameon=False, loc="outside upper left", ncols=2)
    return Plot(
        figure=figure,
        name="learning_curve",
        title="Learning curve",
        description="; ".join(
            f"{key.replace('eval_', 'validation ')} from {values[0]:.3f} to {values[-1]:.3f}"
            for key, (_, values) in series.items()
        ),
    )


@rc_context(STYLE)
def search(numbers_T: Sequence[int], values_T: Sequence[float], metric: str, best: int) -> Plot:
    """Draw the metric of the complete trials in order. best: the number of the best one."""
    figure, axes = _figure(4.4, 3.0)
    axes.plot(numbers_T, values_T, color=BLUE, marker="o", markersize=5, linestyle="none")
    value = values_T[numbers_T.index(best)]
    axes.plot([best], [value], color=ORANGE, marker="o", markersize=8, linestyle="none")
    axes.axhline(value, color=ORANGE, linewidth=1, linestyle="--")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.margins(x=0.06, y=0.12)
    axes.set(xlabel="trial", ylabel=f"validation {metric}")
    return Plot(
        figure=figure,
        name="search",
        title=f"Validation {metric} of each complete trial",
        description=f"The best is trial {best} with {value:.4f}; the others are between "
        f"{min(values_T):.4f} and {max(values_T):.4f}.",
    )


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    """Create a figure of a size in inches, and its axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()
