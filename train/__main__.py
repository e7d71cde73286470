"""Command line of training alone: `python -m train COMMAND`; `textloop` has these and the others.

In a folder with a `train.py` of its own, Python would run that: use `textloop` there.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from serve.command import program
from train import launcher
from train.cli.commands import COMMANDS


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code, see `serve.command.run`."""
    return program.main(
        argv,
        prog="python -m train",
        commands=COMMANDS,
        about="From labelled text to a sealed bundle.",
        report=launcher.report,
        refuse=launcher.refuse,
    )


if __name__ == "__main__":
    sys.exit(main())
