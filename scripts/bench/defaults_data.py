"""Draws of training rows for `bench_defaults`."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One draw of training rows, and the test rows on which every method is scored."""

    set: str
    rows: str
    """Number of rows, or `all`."""
    draw: int
    train: list[Row]
    test: list[Row]
    folder: Path

    @property
    def name(self) -> str:
        """A name for files."""
        return f"{self.set}-{self.rows}-{self.draw}"

    @property
    def is_pair(self) -> bool:
        """Whether the rows are pairs of texts."""
        return "text_pair" in self.train[0]


def cells_of(name: str, folder: Path, sizes: list[str], draws: int, seeds: int) -> Iterator[Cell]:
    """Yield the draws of a data set; with all rows, `seeds` times the same."""
    train, test = (read(folder / f"{part}.jsonl") for part in ("train", "test"))
    for rows in sizes:
        if rows != "all" and int(rows) >= len(train):
            continue
        for number in range(seeds if rows == "all" else draws):
            chosen = train if rows == "all" else draw(train, int(rows), number)
            yield Cell(set=name, rows=rows, draw=number, train=chosen, test=test, folder=folder)


def read(file: Path) -> list[Row]:
    """Read JSON lines; only the columns of the task, labels as text."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    kept = ("text", "text_pair", "label")
    return [{key: str(row[key]) for key in kept if key in row} for row in rows]


def draw(rows: list[Row], size: int, seed: int) -> list[Row]:
    """Draw rows at random, without replacement, at least one of each label.

    Raises ValueError if there are more labels than rows to draw.
    """
    order = random.Random(seed).sample(rows, len(rows))
    first = {row["label"]: row for row in reversed(order)}
    if len(first) > size:
        raise ValueError(f"{size} rows cannot hold {len(first)} labels")
    kept = {id(row) for row in first.values()}
    others = [row for row in order if id(row) not in kept]
    return [*first.values(), *others[: size - len(first)]]
