"""Load validated rows from the sources into three splits.

Decides which rows are used, which split each belongs to and what a split's fingerprint is.
For sources see `train.data.sources`, for the rows of one `train.data.reading`, for tokens
`serve.inference.text`.

Rows are copied in blocks to Arrow files in `output_dir/cache/rows` and read from there through a
memory map, so the data may be larger than memory.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from serve.inference.text import Text
from train.config.run import RunConfig
from train.data.fixes import Fixes, read_fixes
from train.data.label_names import notes_on_labels
from train.data.labels import every_row
from train.data.reading import InvalidRow as InvalidRow
from train.data.reading import read_source, unusable
from train.data.rows import SPLITS, Labels, SplitName
from train.data.split_checks import (
    check_label_map,
    check_splits,
    check_train_labels,
    count_labels,
)
from train.data.splitting.assignment import Assignment, content_key
from train.data.splitting.hash_split import split_by_hash
from train.data.splitting.split_file import split_file
from train.data.splitting.split_notes import shared_texts, unmeasured_labels
from train.data.store import (
    RowWriter,
    content_line,
    ids_of,
    labels_of,
    row_numbers_of,
    slices_of,
    texts_of,
)


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

    ids: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Values of `evaluation.id_columns`, for the test split only."""

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

    source_notes: tuple[str, ...] = ()
    """What was detected in the sources, and what is worth a look in the labels of train."""

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
        """Notes for the user: how sources were read, and rows that were skipped or changed."""
        notes = list(self.source_notes)
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
    have, and for fixes and keys of `data.label_map` that match no row.
    """
    fixes = read_fixes(Path(config.data.fixes), config.task) if config.data.fixes else None
    named = {name: source for name in SPLITS if (source := getattr(config.data, name))}
    missing = [name for name in SPLITS if name not in named]
    if skip_test and named.pop("test", None) and fixes is not None:
        fixes.entries = {key: fix for key, fix in fixes.entries.items() if key[0] != "test"}
    kept = split_file(config.data, missing)
    assignment = kept.open() if missing else Assignment(fractions={})
    directory = config.output_dir / "cache" / "rows"
    num_dropped = num_rows = 0
    written, notes, counts = set[str](), list[str](), Counter[str]()
    tables: dict[SplitName, pa.Table] = {}
    for name, source in named.items():
        with ExitStack() as stack:
            writer = RowWriter(directory)
            stack.callback(writer.discard)
            read = read_source(source, name, config, writer, fixes)
            if invalid is not None:
                invalid += read.invalid
            elif read.num_invalid and not config.data.drop_invalid_rows:
                raise ValueError(unusable(source, name, read))
            num_dropped += read.num_invalid
            written |= read.written
            notes += read.notes
            table = writer.close_unnamed() if name == "train" and missing else writer.close(name)
        if name == "train":
            counts, num_rows = count_labels(labels_of(table)), len(table)
            check_train_labels(counts, num_rows)
            notes += _label_notes(table, config, counts)
        if name == "train" and missing:
            tables |= split_by_hash(table, directory, config, assignment)
        else:
            tables[name] = table
    if not skip_test:
        check_label_map(config.data.label_map, written)
    if fixes is not None:
        fixes.check_all_applied()
        fixes.check_extent(_num_fixed_in_test(fixes, tables, assignment), config.data)
    splits = {
        name: Split(
            texts=texts_of(tables[name], is_pair=config.is_pair),
            labels=labels_of(tables[name]),
            rows=row_numbers_of(tables[name]),
            slices=_slices(tables[name], config) if name == "test" else {},
            ids=_ids(tables[name], config) if name == "test" else {},
            source=name if name in named else "train",
        )
        for name in SPLITS
        if name in tables
    }
    notes += shared_texts({name: each.texts for name, each in splits.items() if name in named})
    if skip_test:
        splits["test"] = splits["validation"]
    rows = {name: each.labels for name, each in splits.items()}
    labels = check_splits(rows, config, counts, num_rows)
    if missing and (note := kept.save(assignment)):
        notes.append(note)
    if not skip_test and (note := unmeasured_labels(rows, labels)):
        notes.append(note)
    return LabelledData(
        **splits,
        labels=labels,
        num_dropped=num_dropped,
        fixes=fixes.record() if fixes else None,
        source_notes=tuple(dict.fromkeys(notes)),
    )


def _num_fixed_in_test(
    fixes: Fixes, tables: dict[SplitName, pa.Table], assignment: Assignment
) -> int:
    """Count the changed rows that are in the test split, or were before they were dropped."""
    if "test" not in assignment.fractions:
        sources = [source for source, _ in [*fixes.dropped, *fixes.relabelled]]
        return sources.count("test")
    in_test = set(row_numbers_of(tables["test"]))
    relabelled = sum(source == "train" and row in in_test for source, row in fixes.relabelled)
    return relabelled + sum(
        source == "train" and assignment.split_of(content_key(text)) == "test"
        for source, text in fixes.dropped
    )


def _label_notes(table: pa.Table, config: RunConfig, counts: Mapping[str, int]) -> list[str]:
    multi = config.task == "multi_label"
    notes = notes_on_labels(counts, multi=multi)
    if multi:
        notes += [
            f"every row of data.train has the label {label!r}, so nothing can be learned about it"
            for label in every_row(labels_of(table))
        ]
    return notes


def _slices(table: pa.Table, config: RunConfig) -> dict[str, Sequence[str]]:
    columns = config.evaluation.slice_columns
    rows = list(slices_of(table)) if columns else []
    return {column: [row[number] for row in rows] for number, column in enumerate(columns)}


def _ids(table: pa.Table, config: RunConfig) -> dict[str, Sequence[Any]]:
    """Read the id columns; one with values of several types becomes text, as a file needs one."""
    columns = config.evaluation.id_columns
    rows = [[json.loads(value) for value in row] for row in ids_of(table)] if columns else []
    found: dict[str, Sequence[Any]] = {
        column: [row[number] for row in rows] for number, column in enumerate(columns)
    }
    for column, values in found.items():
        if len({type(value) for value in values} - {type(None)}) > 1:
            found[column] = [None if value is None else str(value) for value in values]
    return found
