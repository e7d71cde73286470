"""The weights' names, types and shapes, read from the headers of safetensors files alone.

Format: https://huggingface.co/docs/safetensors, eight bytes with the header's length, the header
in JSON, the tensors' bytes. The library checks the same, and more, when it loads the weights;
here it would have to be installed with the server, and a bundle may be served from its export.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve.bundle.contents import MAX_JSON_BYTES, WEIGHTS, WEIGHTS_INDEX, parse_object, read_object
from serve.bundle.manifest import BundleError

_FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes of a number, by the types in which models have their weights."""

_COUNTS = {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
"""The same for constants, such as the numbers of positions."""


MAX_DIMENSIONS = 8
"""Dimensions of a tensor; models have up to five."""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A tensor and where its bytes are."""

    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    end: int

    def read(self) -> bytes:
        """Return its bytes, little-endian, in rows."""
        with self.file.open("rb") as opened:
            opened.seek(self.start)
            return opened.read(self.end - self.start)


Tensors = dict[str, Tensor]


def weight_names(path: Path, names: set[str]) -> list[str]:
    """Return the files that hold the weights, out of the names of all files of a bundle.

    Raises BundleError if there are none, or the index and the files do not fit each other.
    """
    present = {name for name in names if name.endswith(".safetensors")}
    if WEIGHTS in names:
        wanted = {WEIGHTS}
        if WEIGHTS_INDEX in names:
            raise BundleError(f"bundle `{path}`: both `{WEIGHTS}` and `{WEIGHTS_INDEX}` are there")
    elif WEIGHTS_INDEX in names:
        index = read_object(path, WEIGHTS_INDEX).get("weight_map")
        wanted = set(map(str, index.values())) if isinstance(index, dict) else set()
    else:
        raise BundleError(f"bundle `{path}`: file `{WEIGHTS}` is missing")
    if wanted != present:
        odd = min(wanted ^ present)
        what = "is missing" if odd in wanted else "belongs to no weights of the model"
        raise BundleError(f"bundle `{path}`: file `{odd}` {what}")
    return sorted(wanted)


def read_tensors(path: Path, names: list[str]) -> Tensors:
    """Return the tensors in the safetensors files `names`, without their values.

    Raises BundleError for a file that is none, or whose header does not describe it.
    """
    tensors: Tensors = {}
    for name in names:
        try:
            for tensor, value in _tensors(path / name).items():
                if tensor in tensors:
                    raise ValueError(f"`{tensor}` is in another file, too")
                tensors[tensor] = value
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise BundleError(
                f"bundle `{path}`: file `{name}` is not a safetensors file: {error}"
            ) from None
    return tensors


def _tensors(file: Path) -> Tensors:
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_JSON_BYTES):
            raise ValueError(f"a header of {length:,} bytes in a file of {size:,}")
        header = parse_object(opened.read(length))
    header.pop("__metadata__", None)
    first = 8 + length
    tensors = {name: _tensor(name, values, file, first) for name, values in header.items()}
    place = first
    for name, tensor in sorted(tensors.items(), key=lambda each: (each[1].start, each[1].end)):
        if tensor.start != place or tensor.end > size:
            raise ValueError(f"`{name}` is not where the one before it ends, or not in the file")
        place = tensor.end
    if place != size:
        raise ValueError(f"its header describes {place:,} bytes, it has {size:,}")
    return tensors


def _tensor(name: str, values: dict[str, Any], file: Path, first: int) -> Tensor:
    dtype, shape, (start, end) = values["dtype"], values["shape"], values["data_offsets"]
    # A weight or bias in whole numbers is quantized, and nothing here knows how.
    sizes = _FLOATS if name.endswith((".weight", ".bias")) else _FLOATS | _COUNTS
    if dtype not in sizes:
        raise ValueError(f"`{name}` has the type {dtype!r}, expected one of {', '.join(sizes)}")
    numbers = [*shape[:MAX_DIMENSIONS], start, end]
    if len(shape) > MAX_DIMENSIONS or not all(type(n) is int and 0 <= n < 2**48 for n in numbers):
        raise ValueError(f"`{name}` has the shape {shape!s:.40} at {start!s:.20}")
    if end - start != math.prod(shape) * sizes[dtype]:
        raise ValueError(f"`{name}` has {end - start:,} bytes, which its shape does not fit")
    return Tensor(dtype=dtype, shape=tuple(shape), file=file, start=first + start, end=first + end)
