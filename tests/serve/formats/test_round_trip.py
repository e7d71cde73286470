"""Rows that other programs write are read exactly, or refused by line; never changed in silence."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from row_writers import WRITERS, Rows, Writer

from serve.tables import read_rows

MARKS = '"""\'\\,;|\t\n\r \x00\x0b\x0c\x1c\x1f\x85\u2028\ufeff\u200bab1é😀'
PHRASES = ['"quoted"', '"a", "b"', 'say ""hi""', '5" pipe', "sep=;", "NaN", "007", "[1]", "{}"]
texts = st.one_of(
    st.text(st.sampled_from(MARKS), max_size=8),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.sampled_from(PHRASES),
)


@st.composite
def row_lists(draw: st.DrawFn) -> Rows:
    """Rows of one to three columns of strings."""
    names = ["text", "label", "some id"][: draw(st.integers(1, 3))]
    number = draw(st.integers(1, 5))
    return [{name: draw(texts) for name in names} for _ in range(number)]


def outcome(path: Path, writer: Writer, rows: Rows) -> str:
    """Write and read the rows: `exact`, `refused` by line, `said` in a note, or `unwritten`."""
    if any(mark in text for row in rows for text in row.values() for mark in writer.unfit):
        return "unwritten"
    try:
        writer.write(path, rows)
    except csv.Error:
        return "unwritten"  # the dialect has no way to write this text
    notes: list[str] = []
    try:
        read = list(read_rows(path, writer.options, notes.append))
    except ValueError as error:
        return "refused" if re.search(r"\bline \d+", str(error)) else f"refused: {error}"
    if read == rows:
        return "exact"
    is_said = writer.doubt and re.search(rf"({writer.doubt}).*line \d+", "; ".join(notes))
    return "said" if is_said else f"changed: {rows} to {read} with {notes}"


def outcomes(path: Path, writer: Writer, *, examples: int, same: bool = False) -> Counter[str]:
    """Count what became of random rows; fails at once for rows that were changed in silence.

    same: draw the same rows in every run.
    """
    counts = Counter[str]()

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=same,
        suppress_health_check=list(HealthCheck),
    )
    @given(rows=row_lists())
    def try_one(rows: Rows) -> None:
        found = outcome(path, writer, rows)
        assert found in ("exact", "refused", "said", "unwritten"), found
        counts[found] += 1

    run: Callable[[], None] = try_one
    run()
    return counts


@pytest.mark.parametrize("name", WRITERS)
def test_rows_are_read_as_written_or_refused(tmp_path: Path, name: str) -> None:
    writer = WRITERS[name]

    counts = outcomes(tmp_path / f"rows{writer.suffix}", writer, examples=25, same=True)

    assert counts["exact"] > 0


@pytest.mark.slow
def test_twenty_thousand_tables_are_read_as_written_or_refused(tmp_path: Path) -> None:
    total = Counter[str]()
    for number, writer in enumerate(WRITERS.values()):
        path = tmp_path / f"{number}{writer.suffix}"
        counts = outcomes(path, writer, examples=20_000 // len(WRITERS) + 1)
        print(list(WRITERS)[number], dict(counts))
        total += counts
    print(dict(total))

    assert total.total() >= 20_000
    assert total["exact"] > 0.8 * (total.total() - total["unwritten"])
