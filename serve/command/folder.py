"""Import libraries and our own packages, not the files of the folder that somebody works in.

Python looks there first, in a script and in a notebook, so that a file called `evaluate.py` or
`datasets.py` would be run in place of the library.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HOME = Path(__file__).resolve().parents[2]
"""Folder of our packages."""


def is_of_somebody(entry: str) -> bool:
    """Whether an entry of `sys.path` is the current folder or the script's, and not ours."""
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    folders = {Path.cwd(), *([Path(script).resolve().parent] if script else [])}
    return (path := Path(entry).resolve()) in folders and path != HOME


@contextmanager
def libraries_first() -> Iterator[None]:
    """Leave these folders out of the search for modules, until the end of the block.

    Processes that are spawned meanwhile, as by data loaders, leave them out for good.
    """
    before = list(sys.path)
    left_out = [entry for entry in before if is_of_somebody(entry)]
    sys.path[:] = during = [entry for entry in before if entry not in left_out]
    try:
        yield
    finally:
        sys.path[:] = before if sys.path == during else [*left_out, *sys.path]
