"""The program `textloop`: every stage from labelled text to predictions over HTTP."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from textloop.binding import leave_folder


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code, see `serve.command.run`."""
    leave_folder()
    from serve.command import program
    from textloop.commands import COMMANDS
    from train import launcher

    return program.main(
        argv,
        prog="textloop",
        commands=COMMANDS,
        about="From labelled text to a validated classifier behind an HTTP API.",
        report=launcher.report,
        refuse=launcher.refuse,
    )


if __name__ == "__main__":
    sys.exit(main())
