"""Table cells of training's reports."""

from __future__ import annotations

from serve.bundle.manifest import Measured
from serve.html import Html


def interval(metric: Measured | None) -> Html:
    """Value and interval of a metric; a dash for none."""
    if metric is None:
        return Html("&ndash;")
    if metric.low is None or metric.high is None:
        return Html(f"{metric.value:.4f}")
    ends = f"[{metric.low:.4f}, {metric.high:.4f}]"
    return Html(f'{metric.value:.4f} <span class="quiet">{ends}</span>')
