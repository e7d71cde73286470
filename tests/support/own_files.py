"""A project's folder whose files have the names of our packages, and of libraries."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from processes import ROOT

NAMES = ("train", "serve", "evaluate", "datasets", "tokenizers")


def write_own_files(folder: Path, *, packages: bool = False) -> None:
    """Write modules, or packages, that leave a trace when they are run."""
    code = "import pathlib\npathlib.Path(__file__).with_suffix('.ran').touch()\n"
    for name in NAMES:
        file = folder / name / "__init__.py" if packages else folder / f"{name}.py"
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_text(code)


def were_run(folder: Path) -> list[str]:
    """The files that left a trace."""
    return sorted(str(each.relative_to(folder)) for each in folder.rglob("*.ran"))


def call(folder: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run this Python in a folder, with this checkout behind it on the path, until it exits."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
