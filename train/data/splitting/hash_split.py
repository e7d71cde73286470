"""Make the validation and test splits for which the configuration names no source."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa

from train.config.run import RunConfig
from train.data.labels import Labels
from train.data.rows import SplitName
from train.data.splitting.assignment import Assignment, content_key
from train.data.store import (
    RowWriter,
    ids_of,
    labels_of,
    row_numbers_of,
    slices_of,
    texts_of,
)


def split_by_hash(
    table: pa.Table, directory: Path, config: RunConfig, assignment: Assignment
) -> dict[SplitName, pa.Table]:
    """Split validation and test off train by the hash of each text; complete `assignment`.

    A text is always in the same split, whatever is added to the file later, and duplicates (up to
    case and white space) are never in different splits. For labels with few rows see
    `train.data.splitting.assignment`.
    """
    texts, labels = texts_of(table, is_pair=config.is_pair), labels_of(table)

    def rows() -> Iterator[tuple[int, Labels]]:
        return zip(map(content_key, texts), labels, strict=True)

    assignment.complete(rows)
    with ExitStack() as stack:
        names: tuple[SplitName, ...] = ("train", *assignment.fractions)
        writers = {name: RowWriter(directory) for name in names}
        for writer in writers.values():
            stack.callback(writer.discard)
        more = row_numbers_of(table), slices_of(table), ids_of(table)
        for text, row, number, values, ids in zip(texts, labels, *more, strict=True):
            part = assignment.split_of(content_key(text))
            writers[part].add(text, row, number, values, ids)
        return {name: writer.close(name) for name, writer in writers.items()}
