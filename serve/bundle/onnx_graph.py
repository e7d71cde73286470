"""Inputs and outputs of an ONNX graph, read from its bytes.

ONNX Runtime tells them too, but takes seconds to load a large graph, and runs its optimizations on
a file that may be refused; `onnx` is not installed with the server. Only the fields needed here are
decoded: of `ModelProto` the graph (7), of `GraphProto` the inputs (11) and outputs (12), of each
its name (1) and its tensor type's shape (https://onnx.ai/onnx/repo-docs/IR.html,
https://protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_VARINT, _64_BITS, _BYTES, _32_BITS = 0, 1, 2, 5


@dataclass(frozen=True, kw_only=True)
class Graph:
    """The inputs and outputs of a graph, each by name, with its shape.

    Sizes that depend on the input are None.
    """

    inputs: dict[str, tuple[int | None, ...]]
    outputs: dict[str, tuple[int | None, ...]]


def read_graph(file: Path) -> Graph:
    """Read the inputs and outputs of an ONNX file. Raises ValueError if it is none."""
    with file.open("rb") as opened:
        if not file.stat().st_size:
            raise ValueError("it is empty")
        with (
            mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data,
            memoryview(data) as whole,
        ):
            return _graph(whole)


def _graph(data: Any) -> Graph:
    found: dict[int, dict[str, tuple[int | None, ...]]] = {11: {}, 12: {}}
    (start, end) = _one(data, (0, len(data)), 7)
    for field, value in _fields(data, start, end):
        if field in found and isinstance(value, tuple):
            name = bytes(data[slice(*_one(data, value, 1))]).decode()
            if name in found[field]:
                raise ValueError(f"`{name}` is there twice")
            found[field][name] = _shape(data, value)
    return Graph(inputs=found[11], outputs=found[12])


def _shape(data: Any, value: tuple[int, int]) -> tuple[int | None, ...]:
    """The dimensions of a `ValueInfoProto`: type (2), tensor type (1), shape (2), dim (1)."""
    for field in (2, 1, 2):
        value = _one(data, value, field)
    sizes: list[int | None] = []
    for field, dimension in _fields(data, *value):
        if field == 1 and isinstance(dimension, tuple):
            known = [size for number, size in _fields(data, *dimension) if number == 1]
            sizes.append(known[-1] if known and isinstance(known[-1], int) else None)
    return tuple(sizes)


def _one(data: Any, within: tuple[int, int], wanted: int) -> tuple[int, int]:
    """The last message of a field; parsers merge several, which no exporter writes."""
    found = [value for field, value in _fields(data, *within) if field == wanted]
    if len(found) != 1 or not isinstance(found[0], tuple):
        raise ValueError("its graph cannot be read")
    return found[0]


def _fields(data: Any, start: int, end: int) -> Iterator[tuple[int, int | tuple[int, int]]]:
    """The fields of a message: numbers, and where the bytes of others start and end."""
    while start < end:
        key, start = _varint(data, start, end)
        kind = key & 7
        if kind == _VARINT:
            number, start = _varint(data, start, end)
            yield key >> 3, number
            continue
        if kind == _BYTES:
            length, start = _varint(data, start, end)
        elif kind in (_64_BITS, _32_BITS):
            length = 8 if kind == _64_BITS else 4
        else:
            raise ValueError("it is no protobuf message")
        if length > end - start:
            raise ValueError("it is truncated")
        yield key >> 3, (start, start + length)
        start += length


def _varint(data: Any, start: int, end: int) -> tuple[int, int]:
    number = 0
    for position in range(start, min(start + 10, end)):
        number |= (data[position] & 127) << 7 * (position - start)
        if data[position] < 128:
            return number, position + 1
    raise ValueError("it is truncated")
