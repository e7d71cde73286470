"""Read the usable rows of one source, and describe the others."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from serve.formats.options import ReadOptions, list_columns
from serve.inference.text import text_problem
from serve.language.spelling import did_you_mean
from serve.tables import Row
from train.config.run import RunConfig
from train.data.fixes import Fixes
from train.data.label_names import plain_form
from train.data.labels import RowError
from train.data.rows import RowRules, SplitName
from train.data.sources import open_source
from train.data.store import RowWriter
from train.data.template import has_column, value_of

INVALID_KEPT = 1000
"""Maximum number of unusable rows per source to describe; the others are only counted."""


@dataclass(frozen=True, kw_only=True)
class InvalidRow:
    """A row that cannot be used."""

    source: SplitName
    row: int
    """Its number in the source, from 1."""

    problem: str
    content: str
    """The row's content, truncated."""


@dataclass(frozen=True, kw_only=True)
class ReadRows:
    """What was found while a source was read."""

    num_invalid: int
    invalid: list[InvalidRow]
    written: set[str]
    """The labels as they are before `data.label_map`."""

    notes: list[str] = field(default_factory=list)


def read_source(
    source: str, name: SplitName, config: RunConfig, writer: RowWriter, fixes: Fixes | None
) -> ReadRows:
    """Write the usable rows of a source. Raises ValueError if the source as a whole is not usable.

    Values of slice and id columns are written for the rows of test.
    """
    found: list[InvalidRow] = []
    number = num_invalid = 0
    holds_test = name == "test" or (name == "train" and config.data.test is None)
    columns = config.evaluation.slice_columns if holds_test else ()
    id_columns = config.evaluation.id_columns if holds_test else ()
    rules = RowRules(config=config, class_names={})
    used = (*rules.columns, *columns, *id_columns)
    unseen, seen = {*used}, dict[str, Any]()
    options = read_options(config, used)
    with open_source(source, cache_dir=config.output_dir / "cache", options=options) as table:
        rules = RowRules(config=config, class_names=table.class_names)
        for number, row in enumerate((row for block in table.rows for row in block), start=1):
            if unseen:
                unseen = {column for column in unseen if not has_column(row, column)}
                seen.update(islice(row.items(), 50))
            try:
                text, labels = rules.parse(row, number)
                values = tuple(slice_value(row, column) for column in columns)
                ids = tuple(id_value(row, column) for column in id_columns)
            except RowError as error:
                num_invalid += 1
                if len(found) < INVALID_KEPT:
                    found.append(_invalid(name, number, error, row, rules.columns))
                continue
            fixed = labels if fixes is None else fixes.apply(name, number, text, labels)
            if fixed is not None:
                writer.add(text, fixed, number, values, ids)
        notes = table.notes
    if not number:
        raise ValueError(f"`{source}` has no rows")
    if unseen:
        missing = next(column for column in used if column in unseen)
        raise ValueError(f"`{source}` has no column `{missing}`, only {_known(seen, missing)}")
    try:
        rules.labels.check()
    except ValueError as error:
        raise ValueError(f"data.{name} `{source}`: {error}") from None
    return ReadRows(
        num_invalid=num_invalid, invalid=found, written=rules.labels.written, notes=notes
    )


def read_options(config: RunConfig, used: Iterable[str]) -> ReadOptions:
    """Return how the files of a run are read. used: the columns that must be unique."""
    data = config.data
    return ReadOptions(
        delimiter=data.delimiter,
        encoding=data.encoding,
        quoting=data.quoting,
        max_row_bytes=data.max_row_mb * 1_000_000,
        column_names=data.column_names,
        used=frozenset(used),
        key="data.",
    )


def _known(seen: Mapping[str, Any], missing: str) -> str:
    """Return the columns of a source, with values of its first row, for a message."""
    names = list(seen)
    # The first row of a file without a header has texts and numbers, which are no names.
    is_row = any(len(name) > 40 or name.replace(".", "").isdigit() for name in names)
    hint = (
        "; its first line is taken for the header, set data.column_names if it has none"
        if is_row
        else ""
    )
    if alike := [name for name in names if plain_form(name) == plain_form(missing)]:
        hint = f"; {alike[0]!a} is not {missing!a}"
    elif close := did_you_mean(missing, names):
        hint = close
    elif any(name.startswith("__label__") for name in names):
        hint = "; it looks like a file of fastText, write text and label as two columns"
    elif nested := [name for name, value in seen.items() if isinstance(value, dict)]:
        hint = (
            f"; name a value within the objects in {list_columns(nested)} by a dotted path, such "
            f"as {nested[0]}.{next(iter(seen[nested[0]]), 'text')}"
        )
    elif marks := [mark for mark in ";,|" if any(mark in name for name in names)]:
        hint = f"{hint}; set data.delimiter='{marks[0]}' if it is the delimiter"
    return (
        f"{list_columns(names)}{hint}; set data.text_columns and data.label_column, or "
        "data.template, or evaluation.slice_columns and evaluation.id_columns"
    )


def unusable(source: str, name: SplitName, read: ReadRows) -> str:
    """Return the message that refuses a source with unusable rows."""
    shown = "; ".join(f"row {each.row}: {each.problem}" for each in read.invalid[:5])
    return (
        f"data.{name} `{source}` has {read.num_invalid} unusable rows "
        f"({shown}{'; ...' if read.num_invalid > 5 else ''}); "
        "fix them or set data.drop_invalid_rows=true"
    )


def _invalid(
    name: SplitName, number: int, error: RowError, row: Row, columns: Iterable[str]
) -> InvalidRow:
    values = {column: value_of(row, column) for column in columns}
    content = "\n".join(
        f"{column}: {value if isinstance(value, str) else json.dumps(value, default=repr)}"
        for column, value in values.items()
    )
    return InvalidRow(source=name, row=number, problem=str(error), content=content[:500])


def slice_value(row: Row, column: str) -> str:
    """Return the value of a slice column as text. Raises RowError if it is not valid Unicode."""
    value: Any = value_of(row, column)
    text = ("" if value is None else str(value).strip()) or "(missing)"
    if problem := text_problem(text):
        raise RowError(f"column `{column}`: {problem}")
    return text


def id_value(row: Row, column: str) -> str:
    """Return the value of an id column as JSON: text stays text, and a number a number.

    Raises RowError if it is not valid Unicode.
    """
    value: Any = row.get(column)
    is_number = isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)
    if value is not None and not is_number:
        value = str(value)
    if isinstance(value, str) and value and (problem := text_problem(value)):
        raise RowError(f"column `{column}`: {problem}")
    return json.dumps(value)
