"""Recognize the export of a labelling tool, and write its rows as a JSONL file that a run reads.

Nothing is lost in silence: annotations without a label are counted by reason, and so are texts
whose annotators disagree. Their majority decides; without one the text is left out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from serve.files import open_atomic
from serve.formats.options import Row
from train.init.exports import argilla, clouds, label_studio, prodigy
from train.init.exports.shape import Annotations, Tool

TOOLS = (*label_studio.TOOLS, *prodigy.TOOLS, *argilla.TOOLS, *clouds.TOOLS)
MAX_ANNOTATIONS = 1_000_000
"""Annotations of an export; they are held in memory, to compare those of one text."""

_SHOWN = 200


@dataclass(frozen=True, kw_only=True)
class Merged:
    """One row per text."""

    rows: list[Row]
    agreed: int
    """Texts with several annotations, all alike."""

    decided: int
    """Texts whose label is that of a majority."""

    undecided: int
    """Texts that are left out, because no label has a majority."""

    unlabelled: int
    """Texts that are left out, because no annotation has a label."""


def tool_of(rows: Sequence[Row]) -> Tool | None:
    """Return the tool that wrote a file with these first rows."""
    first = rows[:_SHOWN]
    return next((tool for tool in TOOLS if first and tool.matches(first)), None)


def read_all(tool: Tool, rows: Iterable[Row]) -> Annotations:
    """Read all annotations. Raises ValueError if there are none, or too many."""
    found = tool.read(islice(rows, MAX_ANNOTATIONS + 1))
    if len(found.rows) > MAX_ANNOTATIONS:
        raise ValueError(f"the export has more than {MAX_ANNOTATIONS:,} annotations; split it")
    if not found.rows:
        reasons = ", ".join(f"{count} {reason}" for reason, count in found.left_out.items())
        raise ValueError(f"the export of {tool.name} has no label: {reasons or 'it has no rows'}")
    for name in found.labels:
        if any(isinstance(row.get(name), list) for row in found.rows):
            for row in found.rows:
                if isinstance(row.get(name), str) and row[name].strip():
                    row[name] = [row[name]]
    return found


def merge(found: Annotations, columns: Sequence[str], labels: Sequence[str]) -> Merged:
    """Return one row per text. columns: those to keep. labels: those that annotators filled in."""
    by_key: dict[str, list[Row]] = {}
    for key, row in zip(found.keys, found.rows, strict=True):
        by_key.setdefault(key, [])
        if any(name in row and row[name] not in (None, "", []) for name in labels):
            by_key[key].append(row)
    rows = []
    agreed = decided = undecided = 0
    for given in filter(None, by_key.values()):
        answers = Counter(_answer(row, labels) for row in given)
        (answer, most), *others = answers.most_common()
        if len(given) > 1 and not others:
            agreed += 1
        if others and most <= len(given) / 2:
            undecided += 1
            continue
        decided += bool(others)
        row = next(row for row in given if _answer(row, labels) == answer)
        rows.append({name: row.get(name) for name in columns})
    return Merged(
        rows=rows,
        agreed=agreed,
        decided=decided,
        undecided=undecided,
        unlabelled=sum(not given for given in by_key.values()),
    )


def _answer(row: Row, labels: Sequence[str]) -> str:
    values = [row.get(name) for name in labels]
    return json.dumps([sorted(v) if isinstance(v, list) else v for v in values], default=str)


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as JSON Lines."""
    with open_atomic(path) as file:
        for row in rows:
            line = json.dumps(row, ensure_ascii=False, default=str) + "\n"
            file.write(line.encode("utf-8", "backslashreplace"))
