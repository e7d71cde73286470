"""Names and shapes of the weights, read from the headers of safetensors files alone.

Format: https://huggingface.co/docs/safetensors, eight bytes with the header's length, the header
in JSON, the tensors' bytes. The library checks the same, and more, when it loads the weights;
here it would have to be installed with the server.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from serve.bundle.contents import WEIGHTS, WEIGHTS_INDEX, parse_object, read_object
from serve.bundle.manifest import BundleError

MAX_HEADER_BYTES = 100_000_000
"""Limit of the safetensors library."""

Shapes = dict[str, tuple[int, ...]]


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


def read_shapes(path: Path, names: list[str]) -> Shapes:
    """Return the shape of each tensor in the safetensors files `names`. Raises BundleError."""
    shapes: Shapes = {}
    for name in names:
        try:
            header = _header(path / name)
            for tensor, values in header.items():
                if tensor != "__metadata__":
                    shapes[tensor] = tuple(map(int, values["shape"]))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise BundleError(
                f"bundle `{path}`: file `{name}` is not a safetensors file: {error}"
            ) from None
    return shapes


def _header(file: Path) -> dict[str, Any]:
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise ValueError(f"a header of {length:,} bytes in a file of {size:,}")
        return parse_object(opened.read(length))
