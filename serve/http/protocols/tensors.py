"""Tensors of the Open Inference Protocol (KServe V2), in JSON or in its binary extension.

A body in the binary extension is a JSON object, whose length is given by a header, followed
by the bytes of the tensors that declare them. A BYTES tensor is, per element, its length as a
little-endian uint32 and the element.

Pure: bytes and arrays in, texts and bytes out. No input raises anything but RequestError, and
every declared size is compared with the bytes present before it is used.

Shape suffixes: N texts, C labels.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.http.parsing import parse
from serve.http.protocols.checks import check_count
from serve.http.protocols.kserve_schemas import (
    OUTPUTS,
    InferRequest,
    InputTensor,
    OutputParameters,
)
from serve.http.schemas import RequestError
from serve.inference.scores import Array, best_first
from serve.language.spelling import shown


def read_infer(
    body: bytes, header_length: str | None, *, names: Sequence[str], limit: int
) -> tuple[InferRequest, list[list[str]]]:
    """Read a request, and for each text the list of its parts in the order of `names`.

    header_length: the header `Inference-Header-Content-Length`, None if it is absent.
    names: inputs of the model. limit: maximum number of texts.
    Raises RequestError: 400 for tensors that contradict their metadata or the model's inputs,
    422 for too many texts, and as `parse` does.
    """
    length = _header_length(header_length, len(body))
    parsed = parse(InferRequest, body[:length])
    raw = memoryview(body)[length:]
    columns: dict[str, list[str]] = {}
    for tensor in parsed.inputs:
        if tensor.name not in names:
            expected = " and ".join(f"`{name}`" for name in names)
            raise _wrong(f"unknown input `{shown(tensor.name)}`; this model takes {expected}")
        if tensor.name in columns:
            raise _wrong(f"input `{tensor.name}` comes twice")
        columns[tensor.name], raw = _read_tensor(tensor, raw, limit=limit)
    if len(raw):
        raise _wrong(f"{len(raw)} bytes are left after the last input")
    if missing := [name for name in names if name not in columns]:
        raise _wrong(f"input `{missing[0]}` is missing")
    counts = {name: len(column) for name, column in columns.items()}
    if len(set(counts.values())) > 1:
        raise _wrong(f"the inputs differ in their number of texts: {counts}")
    rows = zip(*(columns[name] for name in names), strict=True)
    return parsed, [list(row) for row in rows]


def _wrong(message: str) -> RequestError:
    return RequestError(400, message, field="inputs")


def _header_length(header: str | None, size: int) -> int:
    if header is None:
        return size
    if not (header.isascii() and header.isdigit() and len(header) < 16 and int(header) <= size):
        raise RequestError(
            400,
            f"Inference-Header-Content-Length is `{header[:32]}`, expected a number of bytes "
            f"up to that of the body, {size}",
        )
    return int(header)


def _read_tensor(
    tensor: InputTensor, raw: memoryview, *, limit: int
) -> tuple[list[str], memoryview]:
    """Read the texts of one input; also return the remaining bytes after the JSON."""
    name, count = tensor.name, tensor.shape[0]
    if tensor.shape[1:] not in ([], [1]):
        raise _wrong(f"input `{name}`: shape is {tensor.shape}, expected [N] or [N, 1]")
    check_count(count, name, limit=limit)
    size = tensor.parameters.binary_data_size if tensor.parameters else None
    if size is None:
        return _read_json(tensor, count), raw
    if tensor.data is not None:
        raise _wrong(f"input `{name}` has both `data` and `binary_data_size`")
    if size > len(raw):
        raise _wrong(f"input `{name}`: binary_data_size is {size}, but {len(raw)} bytes are left")
    return read_elements(raw[:size], count, name), raw[size:]


def _read_json(tensor: InputTensor, count: int) -> list[str]:
    name, data = tensor.name, tensor.data
    if not isinstance(data, list):
        raise _wrong(f"input `{name}` has neither a list as `data` nor `binary_data_size`")
    if len(data) != count:
        raise _wrong(f"input `{name}`: shape is {tensor.shape}, but `data` holds {len(data)}")
    if len(tensor.shape) == 2:  # rows may be nested or flat
        data = [row[0] if isinstance(row, list) and len(row) == 1 else row for row in data]
    for number, text in enumerate(data):
        if not isinstance(text, str):
            raise _wrong(f"input `{name}`: element {number} is not a string")
    return data


def read_elements(raw: memoryview, count: int, name: str) -> list[str]:
    """Read the `count` texts of a BYTES tensor; RequestError 400 if the bytes are anything else."""
    texts: list[str] = []
    start = 0
    for number in range(count):
        end = start + 4
        if end <= len(raw):
            start, end = end, end + int.from_bytes(raw[start:end], "little")
        if end > len(raw):
            raise _wrong(f"input `{name}`: the bytes end within element {number}")
        try:
            texts.append(str(raw[start:end], "utf-8"))
        except UnicodeDecodeError as error:
            raise _wrong(f"input `{name}`: element {number} is not UTF-8: {error}") from None
        start = end
    if start != len(raw):
        raise _wrong(f"input `{name}`: {len(raw) - start} bytes are left after {count} elements")
    return texts


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How a requested output is sent."""

    binary: bool
    top: int | None = None
    """Number of best labels to send in place of `scores`."""


def requested_outputs(
    parsed: InferRequest, *, names: Sequence[str] = OUTPUTS[:2]
) -> dict[str, Wanted]:
    """The requested outputs in order, and how each is sent.

    names: outputs of the model; `label` and `scores` are sent where none is requested.
    Raises RequestError 400 for another output, and for a classification of anything but scores.
    """
    binary = parsed.parameters is not None and parsed.parameters.binary_data_output is True
    if not parsed.outputs:
        return dict.fromkeys(OUTPUTS[:2], Wanted(binary=binary))
    requested = {}
    for output in parsed.outputs:
        if output.name not in names:
            known = " and ".join(f"`{name}`" for name in names)
            message = f"unknown output `{shown(output.name)}`; this model has {known}"
            raise RequestError(400, message, field="outputs")
        options = output.parameters or OutputParameters()
        if options.classification and output.name != "scores":
            message = f"output `{output.name}` has no classification; request it of `scores`"
            raise RequestError(400, message, field="outputs")
        requested[output.name] = Wanted(
            binary=binary if options.binary_data is None else options.binary_data,
            top=options.classification,
        )
    return requested


def write_outputs(
    requested: dict[str, Wanted],
    scores_NC: Array,
    labels: Sequence[str],
    *,
    predicted_NC: NDArray[np.bool_] | None = None,
    first_N: NDArray[np.int64] | None = None,
) -> tuple[list[dict[str, Any]], bytes]:
    """The entries of the requested outputs, and the bytes after the JSON.

    first_N: the label of each text that comes first; None: the one of the highest score.
    """
    outputs, raw = [], []
    for name, wanted in requested.items():
        values: NDArray[Any]
        if name == "label":
            best_N = scores_NC.argmax(axis=1) if first_N is None else first_N
            values, kind = _texts([labels[c] for c in best_N]), "BYTES"
        elif name == "predicted":
            assert predicted_NC is not None
            values, kind = predicted_NC, "BOOL"
        elif wanted.top is not None:
            values, kind = _classes(scores_NC, labels, wanted.top, first_N), "BYTES"
        else:
            values, kind = scores_NC.astype("<f4"), "FP32"
        output: dict[str, Any] = {"name": name, "shape": list(values.shape), "datatype": kind}
        flat = values.ravel()
        if wanted.binary:
            content = pack(list(flat)) if kind == "BYTES" else flat.tobytes()
            output["parameters"] = {"binary_data_size": len(content)}
            raw.append(content)
        else:
            output["data"] = flat.tolist()
        outputs.append(output)
    return outputs, b"".join(raw)


def _texts(texts: Sequence[str]) -> NDArray[np.object_]:
    return np.array(texts, dtype=object)


def _classes(
    scores_NC: Array, labels: Sequence[str], top: int, first_N: NDArray[np.int64] | None
) -> NDArray[np.object_]:
    """`score:column:label` of the best labels of each text, as Triton writes them."""
    order_NK, best_NK = best_first(scores_NC, top, first_N)
    rows = [
        [
            f"{score:.6f}:{column}:{labels[column]}"
            for score, column in zip(scores, columns, strict=True)
        ]
        for scores, columns in zip(best_NK.tolist(), order_NK.tolist(), strict=True)
    ]
    return np.array(rows, dtype=object)


def pack(texts: Sequence[str]) -> bytes:
    """Encode texts as a BYTES tensor."""
    contents = [text.encode() for text in texts]
    return b"".join(struct.pack("<I", len(content)) + content for content in contents)
