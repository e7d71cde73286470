"""A confusion matrix as a table: labels by name, counts in the cells, shaded by their share.

Shape suffixes: C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from serve.html import Html, safe, scrolling, shortened

MAX_LABELS = 150
"""Labels of a matrix; of more, those with the most errors are shown."""

SHADES = 9
_NAME_CHARACTERS = 48


def confusion_table(matrix_CC: NDArray[np.int64], labels: Sequence[str]) -> Html:
    """Show rows by true label (down) and predicted label (across), at most `MAX_LABELS`.

    A cell's shade is the square root of its share of the true label's rows, because rare
    confusions would be invisible otherwise.
    """
    shown = _with_most_errors(matrix_CC)
    total_C = np.maximum(matrix_CC.sum(axis=1), 1)
    head = "".join(
        f'<th scope="col" title="{escape(labels[c])}"><span>{_short(labels[c])}</span></th>'
        for c in shown
    )
    rows = []
    for true in shown:
        cells = "".join(
            _cell(int(matrix_CC[true, c]), matrix_CC[true, c] / total_C[true], c == true)
            for c in shown
        )
        name = f'<th scope="row" class="name" title="{escape(labels[true])}">'
        rows.append(f"<tr>{name}<span>{_short(labels[true])}</span></th>{cells}</tr>")
    caption = "Rows by true label (down) and predicted label (across)"
    if len(shown) < len(labels):
        caption += f"; the {len(shown)} labels of {len(labels)} with the most errors"
    return scrolling(
        f'<table class="heat"><caption>{caption}</caption><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>",
        "confusion matrix",
        tall=len(shown) > SHADES,
    )


def _with_most_errors(matrix_CC: NDArray[np.int64]) -> list[int]:
    """Indices of the labels to show, in order."""
    off_CC = matrix_CC - np.diag(np.diag(matrix_CC))
    errors_C = off_CC.sum(axis=0) + off_CC.sum(axis=1)
    return sorted(np.argsort(-errors_C, kind="stable")[:MAX_LABELS].tolist())


def _cell(count: int, share: float, is_hit: bool) -> str:
    if not count:
        return "<td></td>"
    shade = max(1, round(SHADES * float(np.sqrt(share))))
    return f'<td class="{"hit" if is_hit else "miss"}{shade}">{count}</td>'


def _short(label: str) -> Html:
    return safe(shortened(label, _NAME_CHARACTERS))
