"""The packages `train` and `serve` are those beside this one, whatever a folder holds.

A project with a `train.py` or a folder `serve` of its own has names that Python would find first.
So a finder in front of Python's answers for these two names, in this process and, since they
import `textloop` first, in those that it starts.

What was imported already cannot be replaced: `require` says so.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

HOME = str(Path(__file__).resolve().parents[1])
"""Folder of `textloop`, `train` and `serve`."""

PACKAGES = ("serve", "train")


class OurPackages:
    """A finder for the packages beside this one."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find one of the packages; None for every other name."""
        return PathFinder.find_spec(name, [HOME], target) if name in PACKAGES else None


def bind() -> None:
    """Answer for the names from now on."""
    if OurPackages not in sys.meta_path:
        sys.meta_path.insert(0, OurPackages)


def require(*names: str) -> None:
    """Raise ImportError if another module with the name of a package was imported before."""
    for name in names:
        module = sys.modules.get(name)
        if module is None or HOME in [str(Path(each).parent) for each in _folders(module)]:
            continue
        where = getattr(module, "__file__", None) or next(iter(_folders(module)), "?")
        raise ImportError(
            f"a module `{name}` was imported from `{where}`, which hides Textloop's package of "
            f"that name: rename it, or call the `textloop` command in a process of its own"
        )


def _folders(module: ModuleType) -> list[str]:
    return [str(Path(each).resolve()) for each in getattr(module, "__path__", [])]


def leave_folder() -> None:
    """Do not import from the current folder, where `python -m` puts it first, unless this is there.

    A command needs nothing from it, and a file such as `evaluate.py` would hide a library.
    """
    here = str(Path.cwd())
    if here != HOME and sys.path and sys.path[0] in ("", here):
        del sys.path[0]
