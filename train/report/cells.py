"""Values as the reports write them: percentages, intervals, texts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from serve.bundle.manifest import Manifest, Measured
from serve.html import Html, folded, safe, shortened, table
from serve.inference.text import Text

MAX_CHARACTERS = 600
"""Characters of a text in a report; longer ones are truncated."""


def percent(fraction: float) -> str:
    """Format a fraction; only all is 100.0 %, and only none is 0.0 %."""
    tenths = round(1000 * fraction)
    if fraction < 1 and tenths == 1000:
        tenths = 999
    if fraction > 0 and tenths == 0:
        tenths = 1
    return f"{tenths / 10:.1f} %"


def percent_range(metric: Measured) -> str:
    """Format an interval, rounded outwards, narrow ones to tenths; empty without one."""
    if metric.low is None or metric.high is None:
        return ""
    parts = 10 if metric.high - metric.low < 0.1 else 1
    low, high = math.floor(100 * parts * metric.low), math.ceil(100 * parts * metric.high)
    return f"{low / parts:g} to {high / parts:g} %"


def interval(metric: Measured | None, spec: str = ".4f") -> Html:
    """Format a metric with its interval in grey; a dash for None."""
    if metric is None:
        return Html("&ndash;")
    shown = f"{metric.value:{spec}}"
    if metric.low is not None and metric.high is not None:
        shown += f' <span class="quiet">[{metric.low:{spec}}, {metric.high:{spec}}]</span>'
    return Html(shown)


def ends(metric: Measured, spec: str = ".3f") -> str:
    """Format the interval alone; empty without one."""
    if metric.low is None or metric.high is None:
        return ""
    return f"{metric.low:{spec}} to {metric.high:{spec}}"


def text_cell(text: Text) -> Html:
    """Show a text, or both texts of a pair, one below the other."""
    parts = (text,) if isinstance(text, str) else text
    return Html("\n— ".join(safe(shortened(part, MAX_CHARACTERS)) for part in parts))


def label_cell(labels: Sequence[str]) -> Html:
    """Show the labels of a row, each kept apart from the next one's direction of writing."""
    shown = ", ".join(f"<bdi>{safe(shortened(label, 120))}</bdi>" for label in labels)
    return Html(shown or '<span class="quiet">(none)</span>')


def method_name(manifest: Manifest) -> str:
    """Name how a bundle was trained, with the pooling if it is not the architecture's own."""
    if manifest.is_imported:
        return "imported"
    choice, config = manifest.choice or {}, manifest.config
    method = str(choice.get("method", config.get("method", "unknown")))
    pooling = choice.get("pooling", config.get("model", {}).get("pooling", "native"))
    chosen = ", chosen by auto" if choice else ""
    return method + (f" with {pooling} pooling" if pooling != "native" else "") + chosen


def provenance_table(summary: str, facts: Sequence[tuple[str, object]]) -> Html:
    """Fold hashes and versions into a table; facts that are None are left out."""
    rows = [
        [title, Html(f"<code>{safe(value)}</code>")] for title, value in facts if value is not None
    ]
    return folded(summary, table(["", ""], rows, kinds=["name", "text"], caption=summary))
