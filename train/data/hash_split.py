"""Make the validation and test splits for which the configuration names no source."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa

from serve.inference.text import Text
from train.config.data import DataConfig
from train.config.run import RunConfig
from train.data.rows import SplitName
from train.data.store import (
    RowWriter,
    ids_of,
    labels_of,
    row_numbers_of,
    slices_of,
    texts_of,
)


def split_by_hash(
    table: pa.Table, directory: Path, config: RunConfig, missing: list[SplitName]
) -> dict[SplitName, pa.Table]:
    """Split validation and test off train by the hash of each text.

    A text is always in the same split, whatever is added to the file later, and duplicates (up to
    case and white space) are never in different splits. Exception: the rows of a label that would
    have none left stay in train.
    """
    texts, labels = texts_of(table, is_pair=config.is_pair), labels_of(table)
    total = sum(_fraction(config.data, name) for name in missing)
    in_train, split_off = set[str](), set[str]()
    for text, row in zip(texts, labels, strict=True):
        (in_train if content_position(text) >= total else split_off).update(row)
    lost = split_off - in_train
    kept = set[float]()  # positions of the rows that stay in train
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
        more = row_numbers_of(table), slices_of(table), ids_of(table)
        for text, row, number, values, ids in zip(texts, labels, *more, strict=True):
            stays = content_position(text) in kept
            part = "train" if stays else split_of(text, config.data, missing)
            writers[part].add(text, row, number, values, ids)
        return {name: writer.close(name) for name, writer in writers.items()}


def split_of(text: Text, data: DataConfig, missing: list[SplitName]) -> SplitName:
    """Return the split of a text by its hash alone; `missing` are the splits to make."""
    position = content_position(text)
    for name in missing:
        fraction = _fraction(data, name)
        if position < fraction:
            return name
        position -= fraction
    return "train"


def _fraction(data: DataConfig, name: str) -> float:
    return data.validation_fraction if name == "validation" else data.test_fraction


def content_position(text: Text) -> float:
    """Hash a text's words to a position in [0, 1)."""
    parts: Iterable[str] = text if isinstance(text, tuple) else (text,)
    words = json.dumps([" ".join(part.casefold().split()) for part in parts], ensure_ascii=False)
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8]) / 2**64
