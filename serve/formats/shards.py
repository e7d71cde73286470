"""The files of a source that is split over several: a directory, or a pattern with wildcards."""

from __future__ import annotations

import glob
from pathlib import Path

from serve.formats.options import Say, format_of, list_columns


def shards(path: Path, say: Say) -> list[Path]:
    """Return the files in the order of their names: the file itself, or those of a directory.

    Hidden files and those that begin with `_` are left out; files of unknown formats in a
    directory are left out and said. Raises ValueError if there is no file.
    """
    if path.is_file():
        return [path]
    if path.is_dir():
        found = sorted(each for each in path.iterdir() if each.name[0] not in "._")
        inner = [each for each in found if each.is_dir()]
        files = [each for each in found if each.is_file()]
        known = [each for each in files if _is_known(each)]
        left_out = [each.name for each in files if each not in known]
        if inner:
            raise ValueError(
                f"the directory contains directories, {list_columns(e.name for e in inner)}; "
                f"name files by a pattern such as `{path}/*/*.csv`"
            )
        if left_out:
            say(f"left out {list_columns(left_out)}, which have no known format")
        if not known:
            raise ValueError("the directory has no data file")
        return known
    if glob.has_magic(str(path)):
        files = [Path(each) for each in sorted(glob.glob(str(path), recursive=True))]
        files = [each for each in files if each.is_file()]
        if not files:
            raise ValueError("no file matches the pattern")
        return files
    raise ValueError("there is no data file")


def _is_known(path: Path) -> bool:
    try:
        format_of(path)
    except ValueError:
        return False
    return True
