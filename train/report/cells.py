"""Table cells of training's reports."""

from __future__ import annotations

from serve.bundle.manifest import Measured
from serve.html import Html


def interval(metric: Measured | None) -> Html:
    """Format a metric with its interval in grey; a dash for None."""
    if metric is None:
        return Html("&ndash;")
    value, space, ends = str(metric).partition(" ")
    return Html(f'{value}{space}<span class="quiet">{ends}</span>' if ends else value)
