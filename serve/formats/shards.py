"""The files of a source that is split over several: a directory, or a pattern with wildcards."""

from __future__ import annotations

import glob
from pathlib import Path

from serve.formats.options import Say, format_of, list_columns


def shards(path: Path, say: Say) -> list[Path]:
    """Return the files in the order of their names: the file itself, or those of a directory.

    Files of unknown formats in a directory, hidden files and those that begin with `_` are left
    out; what could have been data is said. Raises ValueError if there is no file, and for a link
    to a file that is not there.
    """
    if path.is_file():
        return [path]
    if path.is_dir():
        found = sorted(path.iterdir())
        inner = [each for each in found if each.is_dir() and each.name[0] not in "._"]
        if inner:
            raise ValueError(
                f"the directory contains directories, {list_columns(e.name for e in inner)}; "
                f"name files by a pattern such as `{path}/*/*.csv`"
            )
        files = [each for each in found if not each.is_dir()]
        known = [each for each in files if each.name[0] not in "._" and _is_known(each)]
        left_out = [each for each in files if each not in known]
        if hidden := [e.name for e in left_out if e.name[0] in "._" and _is_known(e)]:
            say(f"left out {list_columns(hidden)}, because of the first character")
        if unknown := [each.name for each in left_out if each.name[0] not in "._"]:
            say(f"left out {list_columns(unknown)}, which have no known format")
        if not known:
            raise ValueError("the directory has no data file")
        return _checked(known, say)
    if glob.has_magic(str(path)):
        found = [Path(each) for each in sorted(glob.glob(str(path), recursive=True))]
        files = [each for each in found if not each.is_dir()]
        if not files:
            raise ValueError("no file matches the pattern")
        if "**" not in path.parts and len(files) < len(found):
            names = list_columns(each.name for each in found if each.is_dir())
            say(f"left out the directories {names}")
        return _checked(files, say)
    raise ValueError("there is no data file")


def _checked(files: list[Path], say: Say) -> list[Path]:
    """Return the files; say which may be copies. Raises ValueError for one that is no file."""
    for file in files:
        if not file.is_file():
            what = "a link to a file that is not there" if file.is_symlink() else "not a file"
            raise ValueError(f"`{file.name}` is {what}; remove it or name the files by a pattern")
    by_stem: dict[str, list[str]] = {}
    for file in files:
        by_stem.setdefault(str(file).removesuffix("".join(file.suffixes)), []).append(file.name)
    for names in by_stem.values():
        if len(names) > 1:
            say(f"{list_columns(names)} differ in the suffix only; are they copies?")
    return files


def _is_known(path: Path) -> bool:
    try:
        format_of(path)
    except ValueError:
        return False
    return True
