"""Token ids on the disk: written in blocks, memory-mapped for reading.

An Arrow file holds one row per text. The Trainer reads it through `datasets`; `Tokens` gives
NumPy views to passes over all texts. Neither loads a split into memory.
"""

from __future__ import annotations

import bisect
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import datasets
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from serve.files import open_atomic
from serve.inference.text import Encoding, Text, TextEncoder, TextError
from serve.tables import blocks
from train.data.splits import Split

BLOCK_TEXTS = 4096


def write_tokens(
    split: Split,
    labels: Sequence[str],
    task: str,
    encoder: TextEncoder,
    path: Path,
    *,
    sort: bool = False,
) -> None:
    """Write token ids and label numbers (or 0/1 rows for multi-label) of a split to `path`.

    sort: by length; texts of equal length keep their order.
    """
    multi = task == "multi_label"
    ids = pa.list_(pa.int32())
    schema = pa.schema(
        [(name, ids) for name in encoder.columns]
        + [("labels", pa.list_(pa.float32()) if multi else pa.int64())]
    )
    index = {label: number for number, label in enumerate(labels)}

    def encoded() -> Iterator[pa.RecordBatch]:
        for block in blocks(zip(split.texts, split.labels, strict=True), BLOCK_TEXTS):
            encodings = _encode(encoder, [text for text, _ in block])
            arrays = [pa.array([each[name] for each in encodings], ids) for name in encoder.columns]
            targets: list[object] = [
                [float(label in given) for label in labels] if multi else index[given[0]]
                for _, given in block
            ]
            arrays.append(pa.array(targets, schema.field("labels").type))
            yield pa.record_batch(arrays, schema=schema)

    path.parent.mkdir(parents=True, exist_ok=True)
    if not sort:
        _write(encoded(), schema, path)
        return
    unsorted = path.with_name(f".{uuid.uuid4().hex}.arrow")
    try:
        _write(encoded(), schema, unsorted)
        table = pa.ipc.open_stream(pa.memory_map(str(unsorted))).read_all()
        lists = Tokens(table, [name for name in schema.names if name != "labels" or multi])
        order = np.argsort(lists.lengths, kind="stable")
        classes_N = None if multi else table["labels"].to_numpy()

        def ordered() -> Iterator[pa.RecordBatch]:
            # Neither by `take`, which copies a whole column for every block, nor by `datasets`'
            # `flatten_indices`, which took 7 times as long on 150,000 rows.
            for start in range(0, len(order), BLOCK_TEXTS):
                rows = order[start : start + BLOCK_TEXTS].tolist()
                block = [lists[row] for row in rows]
                arrays = [
                    pa.array(classes_N[rows])
                    if name == "labels" and classes_N is not None
                    else pa.array([each[name] for each in block], schema.field(name).type)
                    for name in schema.names
                ]
                yield pa.record_batch(arrays, schema=schema)

        _write(ordered(), schema, path)
    finally:
        unsorted.unlink(missing_ok=True)


def _encode(encoder: TextEncoder, texts: Sequence[Text]) -> list[Encoding]:
    try:
        return encoder.encode(texts)
    except TextError as error:
        raise ValueError(f"the text {texts[error.index]!r}: {error}; remove the row") from error


def _write(batches: Iterator[pa.RecordBatch], schema: pa.Schema, path: Path) -> None:
    with open_atomic(path) as file, pa.ipc.new_stream(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


class Tokens(Sequence[Encoding]):
    """The encodings in a memory-mapped table, or other lists of numbers, as views of the file."""

    def __init__(self, table: pa.Table | datasets.Dataset, columns: Sequence[str]) -> None:
        """columns: names of list columns; `input_ids` must be one."""
        chunks = {name: _table(table).column(name).chunks for name in columns}
        self._parts: dict[str, list[tuple[NDArray[np.int32], NDArray[np.int32]]]] = {
            name: [(each.values.to_numpy(), each.offsets.to_numpy()) for each in parts]
            for name, parts in chunks.items()
        }
        sizes = [len(offsets) - 1 for _, offsets in self._parts["input_ids"]]
        self._starts: list[int] = np.cumsum([0, *sizes]).tolist()

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Number of tokens of each text, (N,)."""
        parts = [np.diff(offsets) for _, offsets in self._parts["input_ids"]]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32)

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, index: int) -> Encoding: ...

    @overload
    def __getitem__(self, index: slice) -> list[Encoding]: ...

    def __getitem__(self, index: int | slice) -> Encoding | list[Encoding]:
        if isinstance(index, slice):
            return [self[row] for row in range(len(self))[index]]
        row = range(len(self))[index]
        chunk = bisect.bisect_right(self._starts, row) - 1
        row -= self._starts[chunk]
        found: Encoding = {}
        for name, parts in self._parts.items():
            values, offsets = parts[chunk]
            found[name] = values[offsets[row] : offsets[row + 1]]
        return found


def _table(table: pa.Table | datasets.Dataset) -> pa.Table:
    return table.data.table if isinstance(table, datasets.Dataset) else table
