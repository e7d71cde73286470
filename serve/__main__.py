"""Command line of serving alone: `python -m serve run|predict|key`; `textloop` has all commands.

In a folder with a `serve.py` of its own, Python would run that: use `textloop` there.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from serve.cli.commands import COMMANDS
from serve.command import program


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code, see `serve.command.run`."""
    return program.main(
        argv,
        prog="python -m serve",
        commands={{"serve": "run"}.get(name, name): each for name, each in COMMANDS.items()},
        about="Serve sealed bundles.",
    )


if __name__ == "__main__":
    sys.exit(main())
