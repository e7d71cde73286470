"""The user's texts, with or without labels, divided into rows that choose and rows that judge.

The hash of a text decides, so equal texts stay together and another import of the same file
divides it alike: `train` measures the ranges of the int8 export, `validation` fits the calibration
and judges the export, `test` judges the result and chooses nothing. Without labels there is nothing
to fit or to measure: `test` is empty.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve.config import Config
from serve.formats.options import ReadOptions, list_columns
from serve.inference.text import Text, text_problem
from serve.language.spelling import did_you_mean
from serve.tables import open_rows
from train.config.run import RunConfig
from train.config.sections import CalibrationSection
from train.data.labels import LabelReader, Labels, RowError
from train.data.splits import LabelledData, Split
from train.data.splitting.assignment import content_key
from train.importing.labels import Task, listed

MAX_TEXTS = 20_000
"""Default limit of the rows that are used; full precision on a CPU reads some 100 of them a
second."""

RANGES, RANGES_UNLABELLED = 0.1, 0.2
"""Fraction of the rows for `train`, with and without labels."""

CHOOSING = 0.55
"""Labelled rows below this position that are not `train` are `validation`; the others `test`."""

MIN_LABELLED = 100
"""Labelled rows that a calibration and its metrics need."""

_SHOWN = 3


class ImportConfig(Config):
    """What `textloop import` takes as key.sub=value."""

    calibration: CalibrationSection = CalibrationSection()


@dataclass(frozen=True, kw_only=True)
class UserRows:
    """What the user named with --texts."""

    config: RunConfig
    """With the task, columns and calibration, for what is fitted as `merge` does."""

    data: LabelledData
    is_labelled: bool
    notes: tuple[str, ...]

    @property
    def texts(self) -> list[Text]:
        """All texts, those that judge the export first."""
        splits = (self.data.validation, self.data.test, self.data.train)
        return [text for split in splits for text in split.texts]


def read_user_rows(
    file: Path,
    *,
    text_columns: tuple[str, ...],
    label_column: str | None,
    label_separator: str = "|",
    task: Task,
    labels: tuple[str, ...],
    calibration: CalibrationSection,
    max_texts: int = MAX_TEXTS,
) -> UserRows:
    """Read the first `max_texts` rows. Raises ValueError for a file or a label of no use."""
    config = RunConfig.model_validate(
        {
            "output_dir": str(file.parent),  # nothing is written there
            "task": task,
            "data": {
                "train": str(file),
                "text_columns": list(text_columns),
                "label_column": label_column or "label",
                "label_names": list(labels),
                "label_separator": label_separator,
            },
            "model": {"base": "imported"},
            "calibration": calibration.model_dump(),
        }
    )
    notes: list[str] = []
    reader = LabelReader(config, {}) if label_column else None
    rows = list(_rows(file, config, reader, notes, max_texts))
    if not rows:
        raise ValueError(f"`{file}` has no row with a text")
    if reader is not None:
        _check_labels(file, rows, labels)
        if len(rows) < MIN_LABELLED:
            raise ValueError(
                f"`{file}` has {len(rows)} labelled rows; a calibration and metrics need at least "
                f"{MIN_LABELLED}: leave --label-column out, or name more rows"
            )
    return UserRows(
        config=config,
        data=_divided(rows, labels, is_labelled=reader is not None),
        is_labelled=reader is not None,
        notes=tuple(notes),
    )


@dataclass(frozen=True, kw_only=True)
class _Row:
    number: int
    text: Text
    labels: Labels


def _rows(
    file: Path, config: RunConfig, reader: LabelReader | None, notes: list[str], max_texts: int
) -> Iterator[_Row]:
    """Yield the rows with a text. Raises ValueError for a label that cannot be read."""
    columns = config.data.text_columns
    needed = (*columns, *([config.data.label_column] if reader else []))
    options = ReadOptions(used=frozenset(needed))
    used, skipped = 0, Counter[str]()
    with open_rows(file, options, notes.append) as table:
        for number, row in enumerate(table.rows, start=1):
            if number == 1:
                _check_columns(file, row, needed)
            if used == max_texts:
                notes.append(f"only the first {max_texts} texts are used; see --max-texts")
                break
            parts: list[Any] = [row.get(column) for column in columns]
            if problem := next(filter(None, map(text_problem, parts)), None):
                skipped[f"row {number}: {problem}" if len(skipped) < _SHOWN else "..."] += 1
                continue
            try:
                labels = reader.read(row, number) if reader else ()
            except RowError as error:
                raise ValueError(
                    f"`{file}`, row {number}, column `{config.data.label_column}`: {error}"
                ) from None
            used += 1
            text = str(parts[0]) if len(parts) == 1 else (str(parts[0]), str(parts[1]))
            yield _Row(number=number, text=text, labels=labels)
    if reader is not None:
        reader.check()
    if skipped:
        notes.append(f"{skipped.total()} rows without a usable text skipped ({'; '.join(skipped)})")


def _check_columns(file: Path, row: Mapping[str, Any], needed: Sequence[str]) -> None:
    for column in needed:
        if column not in row:
            raise ValueError(
                f"`{file}` has no column `{column}`, only {list_columns(row)}"
                f"{did_you_mean(column, row)}; name the columns with --text-columns and "
                "--label-column"
            )


def _check_labels(file: Path, rows: Sequence[_Row], labels: tuple[str, ...]) -> None:
    """Raise ValueError for a label that the model does not have."""
    known = set(labels)
    for row in rows:
        for label in row.labels:
            if label not in known:
                raise ValueError(
                    f"`{file}`, row {row.number}: the model has no label {label!r}, only "
                    f"{listed(labels)}{did_you_mean(label, labels)}; rename the model's labels "
                    "with --label-map OLD=NEW or --labels"
                )


def _divided(rows: Sequence[_Row], labels: tuple[str, ...], *, is_labelled: bool) -> LabelledData:
    parts: dict[str, list[_Row]] = {"train": [], "validation": [], "test": []}
    ranges = RANGES if is_labelled else RANGES_UNLABELLED
    for row in rows:
        position = content_key(row.text) / 2**64
        name = "validation" if position < CHOOSING or not is_labelled else "test"
        parts["train" if position < ranges else name].append(row)
    splits: dict[str, Any] = {
        name: Split(
            texts=[row.text for row in part],
            labels=[row.labels for row in part],
            rows=[row.number for row in part],
        )
        for name, part in parts.items()
    }
    return LabelledData(**splits, labels=labels, num_dropped=0)


def print_note(note: str) -> None:
    """Print a note to stderr."""
    print(f"note: {note}", file=sys.stderr)
