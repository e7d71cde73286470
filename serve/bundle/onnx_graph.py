"""What an ONNX file takes, gives and asks for, read from its bytes.

ONNX Runtime tells it too, but takes seconds to load a large graph, and runs its optimizations on a
file that may be refused; `onnx` is not installed with the server. Only the fields needed here are
decoded (https://onnx.ai/onnx/repo-docs/IR.html, numbers in onnx.proto;
https://protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Span = tuple[int, int]
"""Where the bytes of a field start and end in the file."""

DOMAINS = ("", "ai.onnx", "com.microsoft")
"""Operators that are part of ONNX Runtime; others are code of somebody else."""

MAX_FIELDS = 500_000
"""Fields that are decoded, in about half a second; an export of 24 layers has some 40,000."""

_VARINT, _64_BITS, _BYTES, _32_BITS = 0, 1, 2, 5

_FUNCTIONS, _TRAINING, _GRAPH = 25, 20, 7
_NODE, _INITIALIZER, _INPUT, _OUTPUT, _SPARSE = 1, 5, 11, 12, 15
_ATTRIBUTE, _DOMAIN = 5, 7
_TENSOR, _SUBGRAPH, _TENSORS, _SUBGRAPHS = 5, 6, 10, 11
_DIMENSION, _DATA_TYPE, _TENSOR_NAME, _RAW, _EXTERNAL, _LOCATION = 1, 2, 8, 9, 13, 14
_FLOAT = 1


@dataclass(frozen=True, kw_only=True)
class Graph:
    """The inputs and outputs of a graph, each by name, with its shape, and its fp32 weights.

    Sizes that depend on the input are None.
    """

    inputs: dict[str, tuple[int | None, ...]]
    outputs: dict[str, tuple[int | None, ...]]
    floats: dict[str, Span]
    shapes: dict[str, tuple[int, ...]]
    """Of the fp32 weights."""
    last_inputs: tuple[str, ...]
    """Inputs of the node that gives `logits`."""


def read_graph(file: Path) -> Graph:
    """Read an ONNX file in bounded time.

    Raises ValueError if it is none, and if it has weights in other files, operators from outside
    ONNX Runtime, or graphs within its graph, which may loop.
    """
    with file.open("rb") as opened:
        if not file.stat().st_size:
            raise ValueError("it is empty")
        with (
            mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data,
            memoryview(data) as whole,
        ):
            return _Reader(whole).graph()


class _Reader:
    def __init__(self, data: Any) -> None:
        self.data = data
        self.left = MAX_FIELDS
        self.last_inputs: tuple[str, ...] = ()
        self.shapes: dict[str, tuple[int, ...]] = {}

    def graph(self) -> Graph:
        graphs = []
        for field, value in self._fields((0, len(self.data))):
            if field in (_FUNCTIONS, _TRAINING):
                raise ValueError("it has functions or training steps of its own")
            if field == _GRAPH:
                graphs.append(value)
        found: dict[int, dict[str, Any]] = {_INPUT: {}, _OUTPUT: {}, _INITIALIZER: {}}
        for field, value in self._fields(_only(graphs)):
            if field == _NODE:
                self._check_node(_span(value))
            elif field == _SPARSE:
                raise ValueError("it has sparse weights")
            elif field in found:
                self._add(found[field], field, _span(value))
        return Graph(
            inputs=found[_INPUT],
            outputs=found[_OUTPUT],
            floats={name: span for name, span in found[_INITIALIZER].items() if span},
            shapes=self.shapes,
            last_inputs=self.last_inputs,
        )

    def _add(self, found: dict[str, Any], field: int, span: Span) -> None:
        value: Any
        if field == _INITIALIZER:
            name, value = self._tensor(span)
        else:
            name, value = self._text(self._one(span, 1)), self._shape(span)
        if name in found:
            raise ValueError(f"`{name}` is there twice")
        found[name] = value

    def _check_node(self, node: Span) -> None:
        inputs = []
        for field, value in self._fields(node):
            if field == 1:
                inputs.append(self._text(_span(value)))
            elif field == 2 and self._text(_span(value)) == "logits":
                self.last_inputs = tuple(inputs)
            if field == _DOMAIN and (domain := self._text(_span(value))) not in DOMAINS:
                raise ValueError(f"it has operators of `{domain}`, code from outside ONNX Runtime")
            if field != _ATTRIBUTE:
                continue
            for kind, part in self._fields(_span(value)):
                if kind in (_SUBGRAPH, _SUBGRAPHS):
                    raise ValueError("it has a graph within its graph")
                if kind in (_TENSOR, _TENSORS):
                    self._tensor(_span(part))

    def _tensor(self, tensor: Span) -> tuple[str, Span | None]:
        """The name of a `TensorProto` and where its values are, if they are raw fp32."""
        name, kind, raw = "", 0, None
        sizes: list[int] = []
        for field, value in self._fields(tensor):
            if field == _EXTERNAL or (field == _LOCATION and value):
                raise ValueError("it has weights in another file")
            if field == _TENSOR_NAME:
                name = self._text(_span(value))
            elif field == _DATA_TYPE and isinstance(value, int):
                kind = value
            elif field == _RAW:
                raw = _span(value)
            elif field == _DIMENSION:
                sizes += [value] if isinstance(value, int) else self._numbers(value)
        if kind != _FLOAT or raw is None:
            return name, None
        self.shapes[name] = tuple(sizes)
        return name, raw

    def _shape(self, value: Span) -> tuple[int | None, ...]:
        """The dimensions of a `ValueInfoProto`: type (2), tensor type (1), shape (2), dim (1)."""
        for field in (2, 1, 2):
            value = self._one(value, field)
        sizes: list[int | None] = []
        for field, dimension in self._fields(value):
            if field == 1:
                known = [size for number, size in self._fields(_span(dimension)) if number == 1]
                sizes.append(known[-1] if known and isinstance(known[-1], int) else None)
        return tuple(sizes)

    def _numbers(self, span: Span) -> Iterator[int]:
        """The numbers of a packed field."""
        start, end = span
        while start < end:
            self._count()
            number, start = self._varint(start, end)
            yield number

    def _text(self, span: Span) -> str:
        return bytes(self.data[slice(*span)]).decode()

    def _one(self, within: Span, wanted: int) -> Span:
        return _only([value for field, value in self._fields(within) if field == wanted])

    def _fields(self, within: Span) -> Iterator[tuple[int, int | Span]]:
        """The fields of a message: numbers, and where the bytes of others start and end."""
        start, end = within
        while start < end:
            self._count()
            key, start = self._varint(start, end)
            kind = key & 7
            if kind == _VARINT:
                number, start = self._varint(start, end)
                yield key >> 3, number
                continue
            if kind == _BYTES:
                length, start = self._varint(start, end)
            elif kind in (_64_BITS, _32_BITS):
                length = 8 if kind == _64_BITS else 4
            else:
                raise ValueError("it is no protobuf message")
            if length > end - start:
                raise ValueError("it is truncated")
            yield key >> 3, (start, start + length)
            start += length

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise ValueError(f"it has more than {MAX_FIELDS:,} fields")

    def _varint(self, start: int, end: int) -> tuple[int, int]:
        number = 0
        for position in range(start, min(start + 10, end)):
            number |= (self.data[position] & 127) << 7 * (position - start)
            if self.data[position] < 128:
                return number, position + 1
        raise ValueError("it is truncated")


def _span(value: int | Span) -> Span:
    if isinstance(value, int):
        raise ValueError("its graph cannot be read")
    return value


def _only(values: list[int | Span]) -> Span:
    """The value of a field that is there once; parsers merge several, which no exporter writes."""
    if len(values) != 1:
        raise ValueError("its graph cannot be read")
    return _span(values[0])
