"""Underperforming slices: accuracy by text length, by class and by columns that the user names.

A slice is flagged only if its interval excludes the accuracy on all rows. The intervals hold
simultaneously: with m slices each has an error of alpha / m (Bonferroni), so that a flag among
hundreds of slices is still significant. Slices with too few rows are skipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve.bundle.manifest import Measured
from serve.inference.text import Text
from serve.stats import wilson
from train.data.splits import Split

MIN_ROWS = 20
"""Minimum rows of a slice; with fewer, only a huge difference would be detected."""

LENGTH_BINS = 5
"""Bins by number of words, with about the same number of rows each."""


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Rows that have something in common."""

    by: str
    """What the rows are grouped by: words, class or the name of a column."""
    value: str
    rows: int
    accuracy: Measured
    """With an interval that holds for all slices simultaneously."""
    flag: str
    """worse, better, or empty where the interval includes the accuracy on all rows."""


@dataclass(frozen=True, kw_only=True)
class Slices:
    """All slices with enough rows: flagged as worse first, then by accuracy."""

    slices: list[Slice]
    num_skipped: int
    """Slices with fewer than `MIN_ROWS` rows."""


def find_slices(split: Split, correct_N: NDArray[np.bool_], *, alpha: float = 0.05) -> Slices:
    """Measure the accuracy of every slice of a split.

    correct_N: whether a row got exactly its labels. alpha: error of all intervals together.
    """
    cuts = [*_by_length(split.texts), *_by_class(split.labels)]
    for column, values in split.slices.items():
        names = np.array(values, dtype=object)
        cuts += [(column, value, names == value) for value in sorted(set(values))]
    measured = [cut for cut in cuts if int(cut[2].sum()) >= MIN_ROWS]
    overall = float(correct_N.mean())
    slices = []
    for by, value, member_N in measured:
        rows, num_correct = int(member_N.sum()), int(correct_N[member_N].sum())
        low, high = wilson(num_correct, rows, alpha=alpha / len(measured))
        slices.append(
            Slice(
                by=by,
                value=value,
                rows=rows,
                accuracy=Measured(value=num_correct / rows, low=low, high=high),
                flag="worse" if high < overall else "better" if low > overall else "",
            )
        )
    order = {"worse": 0, "": 1, "better": 2}
    slices.sort(key=lambda each: (order[each.flag], each.accuracy.value))
    return Slices(slices=slices, num_skipped=len(cuts) - len(measured))


Cut = tuple[str, str, NDArray[np.bool_]]


def _by_length(texts: Sequence[Text]) -> list[Cut]:
    words_N = np.array(
        [len((text if isinstance(text, str) else " ".join(text)).split()) for text in texts]
    )
    edges = np.unique(np.quantile(words_N, np.linspace(0, 1, LENGTH_BINS + 1)[1:-1]).round())
    bin_N = np.searchsorted(edges, words_N, side="right")
    cuts = []
    for number in np.unique(bin_N):
        member_N = bin_N == number
        low, high = int(words_N[member_N].min()), int(words_N[member_N].max())
        cuts.append(("words", f"{low} to {high}" if low < high else f"{low}", member_N))
    return cuts


def _by_class(labels: Sequence[tuple[str, ...]]) -> list[Cut]:
    names = sorted({label for row in labels for label in row})
    return [("class", name, np.array([name in row for row in labels])) for name in names]
