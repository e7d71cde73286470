"""Load validated rows from the sources into three splits.

Decides which rows are used, which split each belongs to and what a split's fingerprint is.
For sources see `train.data.sources`, for single rows `train.data.rows`, for tokens
`serve.inference.text`.

Rows are copied in blocks to Arrow files in `output_dir/cache/rows` and read from there through a
memory map, so the data may be larger than memory.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from serve.inference.text import Text
from serve.tables import Row
from train.config.run import RunConfig
from train.data.fixes import Fixes, read_fixes
from train.data.hash_split import split_by_hash, split_of
from train.data.rows import SPLITS, Labels, RowError, RowRules, SplitName
from train.data.sources import open_source
from train.data.store import RowWriter, content_line, labels_of, row_numbers_of, slices_of, texts_of

INVALID_KEPT = 1000
"""Maximum number of unusable rows per source to describe; the others are only counted."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Rows of one split, in the order of the source."""

    texts: Sequence[Text]
    labels: Sequence[Labels]
    """One label per row for a single-label task, any number for a multi-label one."""

    rows: Sequence[int] = ()
    """The number of each row in its source, from 1; empty if there is no source."""

    slices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Values of `evaluation.slice_columns`, for the test split only."""

    source: SplitName = "train"
    """The key under `data` that names the source; train for a part split off train."""

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """Number of rows, and SHA-256 of their content in order."""
        digest = hashlib.sha256()
        for text, labels in zip(self.texts, self.labels, strict=True):
            digest.update(content_line(text, labels))
        return {"rows": len(self), "sha256": digest.hexdigest()}


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
class LabelledData:
    """The three splits and the labels, in the order of the model's outputs."""

    train: Split
    validation: Split
    test: Split
    labels: tuple[str, ...]
    num_dropped: int
    """Rows skipped because of `drop_invalid_rows`."""

    fixes: dict[str, Any] | None = None
    """Changes by `data.fixes`: rows dropped and relabelled, and SHA-256 of the file."""

    @property
    def splits(self) -> dict[SplitName, Split]:
        """The splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def fingerprints(self) -> dict[str, Any]:
        """The fingerprint of each split, and of the fixes if any."""
        found: dict[str, Any] = {name: split.fingerprint for name, split in self.splits.items()}
        return found if self.fixes is None else found | {"fixes": self.fixes}

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user on rows that were skipped or changed."""
        notes = []
        if self.num_dropped:
            notes.append(f"{self.num_dropped} unusable rows skipped")
        if self.fixes is not None:
            counts = f"{self.fixes['dropped']} rows dropped, {self.fixes['relabelled']} relabelled"
            notes.append(f"fixes applied: {counts}")
        return tuple(notes)


def load_data(
    config: RunConfig, *, invalid: list[InvalidRow] | None = None, skip_test: bool = False
) -> LabelledData:
    """Read, validate and split the data of a run; the same configuration gives the same rows.

    invalid: list to extend by descriptions of unusable rows, at most INVALID_KEPT per source; if
    given, unusable rows are skipped. skip_test: do not open a test source; the test split is
    the validation split once more. Raises ValueError for a source that cannot be read, for
    unusable rows (unless they are to be skipped), for a label that the training split does not
    have, and for fixes that do not match the rows.
    """
    fixes = read_fixes(Path(config.data.fixes), config.task) if config.data.fixes else None
    named = {name: source for name in SPLITS if (source := getattr(config.data, name))}
    missing = [name for name in SPLITS if name not in named]
    if skip_test and named.pop("test", None) and fixes is not None:
        fixes.entries = {key: fix for key, fix in fixes.entries.items() if key[0] != "test"}
    directory = config.output_dir / "cache" / "rows"
    num_dropped = 0
    tables: dict[SplitName, pa.Table] = {}
    for name, source in named.items():
        with ExitStack() as stack:
            writer = RowWriter(directory)
            stack.callback(writer.discard)
            num_dropped += _read(source, name, config, writer, fixes, invalid)
            if name == "train" and missing:
                table = writer.close_unnamed()
                tables |= split_by_hash(table, directory, config, missing)
            else:
                tables[name] = writer.close(name)
    if fixes is not None:
        fixes.check_all_applied()
        fixes.check_extent(_num_fixed_in_test(fixes, tables, config, missing), config.data)
    splits = {
        name: Split(
            texts=texts_of(tables[name], is_pair=config.is_pair),
            labels=labels_of(tables[name]),
            rows=row_numbers_of(tables[name]),
            slices=_slices(tables[name], config) if name == "test" else {},
            source=name if name in named else "train",
        )
        for name in SPLITS
        if name in tables
    }
    if skip_test:
        splits["test"] = splits["validation"]
    return LabelledData(
        **splits,
        labels=_check_labels(splits),
        num_dropped=num_dropped,
        fixes=fixes.record() if fixes else None,
    )


def _num_fixed_in_test(
    fixes: Fixes, tables: dict[SplitName, pa.Table], config: RunConfig, missing: list[SplitName]
) -> int:
    """Count the changed rows that are in the test split, or were before they were dropped."""
    if "test" not in missing:
        sources = [source for source, _ in [*fixes.dropped, *fixes.relabelled]]
        return sources.count("test")
    in_test = set(row_numbers_of(tables["test"]))
    relabelled = sum(source == "train" and row in in_test for source, row in fixes.relabelled)
    return relabelled + sum(
        source == "train" and split_of(text, config.data, missing) == "test"
        for source, text in fixes.dropped
    )


def _slices(table: pa.Table, config: RunConfig) -> dict[str, Sequence[str]]:
    columns = config.evaluation.slice_columns
    rows = list(slices_of(table)) if columns else []
    return {column: [row[number] for row in rows] for number, column in enumerate(columns)}


def _check_labels(splits: dict[SplitName, Split]) -> tuple[str, ...]:
    """Return the labels of train, sorted; ValueError if a split is empty or has other labels."""
    for name, split in splits.items():
        if not len(split):
            raise ValueError(f"data.{name} has no rows; add data or use larger fractions")
    labels = tuple(sorted({label for row in splits["train"].labels for label in row}))
    if len(labels) < 2:
        raise ValueError(
            f"data.train has the labels {list(labels)}; a classifier needs two or more"
        )
    known = set(labels)
    for name, split in splits.items():
        strange = Counter(label for row in split.labels for label in row if label not in known)
        if strange:
            label, count = strange.most_common(1)[0]
            raise ValueError(
                f"data.{name} has {count} rows with the label {label!r}, which no row of "
                "data.train has; add examples, or map or remove the label (data.label_map)"
            )
    return labels


def _read(
    source: str,
    name: SplitName,
    config: RunConfig,
    writer: RowWriter,
    fixes: Fixes | None,
    invalid: list[InvalidRow] | None,
) -> int:
    """Write the usable rows of a source, and return the number of unusable ones."""
    found: list[InvalidRow] = []
    number = num_invalid = 0
    with open_source(source, cache_dir=config.output_dir / "cache") as table:
        rules = RowRules(config=config, class_names=table.class_names)
        holds_test = name == "test" or (name == "train" and config.data.test is None)
        columns = config.evaluation.slice_columns if holds_test else ()
        unseen, seen = {*rules.columns, *columns}, dict[str, None]()
        for number, row in enumerate((row for block in table.rows for row in block), start=1):
            if unseen:
                unseen -= row.keys()
                seen.update(dict.fromkeys(islice(row, 50)))
            try:
                text, labels = rules.parse(row)
            except RowError as error:
                num_invalid += 1
                if len(found) < INVALID_KEPT:
                    found.append(_invalid(name, number, error, row, rules.columns))
                continue
            fixed = labels if fixes is None else fixes.apply(name, number, text, labels)
            if fixed is not None:
                values = tuple(slice_value(row.get(column)) for column in columns)
                writer.add(text, fixed, number, values)
    if not number:
        raise ValueError(f"`{source}` has no rows")
    if unseen:
        raise ValueError(
            f"`{source}` has no column "
            f"`{next(c for c in (*rules.columns, *columns) if c in unseen)}`, only "
            f"{', '.join(seen)}; set data.text_columns and data.label_column, or data.template, "
            "or evaluation.slice_columns"
        )
    if invalid is not None:
        invalid += found
    elif num_invalid and not config.data.drop_invalid_rows:
        shown = "; ".join(f"row {each.row}: {each.problem}" for each in found[:5])
        raise ValueError(
            f"data.{name} `{source}` has {num_invalid} unusable rows "
            f"({shown}{'; ...' if num_invalid > 5 else ''}); "
            "fix them or set data.drop_invalid_rows=true"
        )
    return num_invalid


def _invalid(
    name: SplitName, number: int, error: RowError, row: Row, columns: Iterable[str]
) -> InvalidRow:
    content = json.dumps({column: row.get(column) for column in columns}, default=repr)
    return InvalidRow(source=name, row=number, problem=str(error), content=content[:500])


def slice_value(value: Any) -> str:
    """Return a value of a slice column as text."""
    return ("" if value is None else str(value).strip()) or "(missing)"
