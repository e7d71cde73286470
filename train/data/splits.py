"""From sources to validated rows in three splits.

Decides which rows are used, which split each falls into and what a split's fingerprint is.
For sources see `train.data.sources`, for single rows `train.data.rows`, for tokens
`serve.inference.text`.

Rows go from the source to Arrow files in `output_dir/cache/rows` one block at a time and are
read there in place, so that the data may be larger than the memory.
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
from train.config.run import DataConfig, RunConfig
from train.data.fixes import Fixes, read_fixes
from train.data.rows import SPLITS, Labels, RowError, RowRules, SplitName
from train.data.sources import open_source
from train.data.store import RowWriter, content_line, labels_of, row_numbers_of, slices_of, texts_of

INVALID_KEPT = 1000
"""Unusable rows of a source that are described; the others are counted."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Rows of one split, in the order of the source."""

    texts: Sequence[Text]
    labels: Sequence[Labels]
    """One label per row for a single-label task, any number for a multi-label one."""

    rows: Sequence[int] = ()
    """The number of each row in its source, from 1; empty where rows came from elsewhere."""

    slices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Values of `evaluation.slice_columns`; of no split but test."""

    source: SplitName = "train"
    """The key under `data` that named the source; a split that was cut off train has train."""

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """Number of rows and SHA-256 over their content, in order."""
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
    """What the row holds, shortened."""


@dataclass(frozen=True, kw_only=True)
class LabelledData:
    """The three splits and the labels, in the order of the model's outputs."""

    train: Split
    validation: Split
    test: Split
    labels: tuple[str, ...]
    num_dropped: int
    """Rows left out because `drop_invalid_rows` said so."""

    fixes: dict[str, Any] | None = None
    """What `data.fixes` changed: rows dropped and relabelled, and SHA-256 of the file."""

    @property
    def splits(self) -> dict[SplitName, Split]:
        """The splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def fingerprints(self) -> dict[str, Any]:
        """The fingerprint of each split, and of the fixes if there are any."""
        found: dict[str, Any] = {name: split.fingerprint for name, split in self.splits.items()}
        return found if self.fixes is None else found | {"fixes": self.fixes}

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about how the rows came about."""
        notes = []
        if self.num_dropped:
            notes.append(f"{self.num_dropped} unusable rows left out")
        if self.fixes is not None:
            counts = f"{self.fixes['dropped']} rows dropped, {self.fixes['relabelled']} relabelled"
            notes.append(f"fixes applied: {counts}")
        return tuple(notes)


def load_data(
    config: RunConfig, *, invalid: list[InvalidRow] | None = None, skip_test: bool = False
) -> LabelledData:
    """Read, validate and split the data of a run; the same configuration gives the same rows.

    invalid: takes up descriptions of unusable rows, at most INVALID_KEPT a source; given, such
    rows are left out and never refused.
    skip_test: do not open a test source; the test split is the validation split once more.
    Raises ValueError for a source that cannot be read, for rows without text or label
    (unless told to drop them), for a label that the training split does not have, and for
    fixes that do not fit the rows.
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
                tables |= _split_by_hash(table, directory, config, missing)
            else:
                tables[name] = writer.close(name)
    if fixes is not None:
        fixes.check_all_applied()
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


def _slices(table: pa.Table, config: RunConfig) -> dict[str, Sequence[str]]:
    columns = config.evaluation.slice_columns
    rows = list(slices_of(table)) if columns else []
    return {column: [row[number] for row in rows] for number, column in enumerate(columns)}


def _check_labels(splits: dict[SplitName, Split]) -> tuple[str, ...]:
    """The labels of train, sorted; ValueError if the splits cannot be trained and judged on."""
    for name, split in splits.items():
        if not len(split):
            raise ValueError(f"data.{name} has no rows; give more data or larger fractions")
    labels = tuple(sorted({label for row in splits["train"].labels for label in row}))
    if len(labels) < 2:
        raise ValueError(f"data.train has the labels {list(labels)}; a classifier needs two")
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
    """Write the usable rows of a source; the number of the others."""
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
            "mend them or set data.drop_invalid_rows=true"
        )
    return num_invalid


def _invalid(
    name: SplitName, number: int, error: RowError, row: Row, columns: Iterable[str]
) -> InvalidRow:
    content = json.dumps({column: row.get(column) for column in columns}, default=repr)
    return InvalidRow(source=name, row=number, problem=str(error), content=content[:500])


def _split_by_hash(
    table: pa.Table, directory: Path, config: RunConfig, missing: list[SplitName]
) -> dict[SplitName, pa.Table]:
    """Cut validation and test off train by the hash of each text.

    The same text always falls into the same split, whatever is added to the file later, and
    copies of a text (up to case and white space) never stand on both sides. Exception: rows
    of a label that would have none left in train stay there.
    """
    texts, labels = texts_of(table, is_pair=config.is_pair), labels_of(table)
    share_cut = sum(_fraction(config.data, name) for name in missing)
    left, cut = set[str](), set[str]()
    for text, row in zip(texts, labels, strict=True):
        (left if content_position(text) >= share_cut else cut).update(row)
    lost = cut - left
    kept = set[float]()
    if lost:
        kept = {
            content_position(text)
            for text, row in zip(texts, labels, strict=True)
            if not lost.isdisjoint(row)
        }
    with ExitStack() as stack:
        names: tuple[SplitName, ...] = ("train", *missing)
        writers = {name: RowWriter(directory) for name in names}
        for writer in writers.values():
            stack.callback(writer.discard)
        numbers = row_numbers_of(table)
        for text, row, number, values in zip(texts, labels, numbers, slices_of(table), strict=True):
            position = content_position(text)
            part: SplitName = "train"
            for name in missing if position not in kept else []:
                share = _fraction(config.data, name)
                if position < share:
                    part = name
                    break
                position -= share
            writers[part].add(text, row, number, values)
        return {name: writer.close(name) for name, writer in writers.items()}


def slice_value(value: Any) -> str:
    """A value of a slice column as text."""
    return ("" if value is None else str(value).strip()) or "(missing)"


def _fraction(data: DataConfig, name: str) -> float:
    return data.validation_fraction if name == "validation" else data.test_fraction


def content_position(text: Text) -> float:
    """A position in [0, 1) that depends on the text's words alone."""
    parts: Iterable[str] = text if isinstance(text, tuple) else (text,)
    words = json.dumps([" ".join(part.casefold().split()) for part in parts], ensure_ascii=False)
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8]) / 2**64
