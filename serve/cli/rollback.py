"""`textloop rollback`: make the previous champion the champion again."""

from __future__ import annotations

import argparse

from serve.cli.switching import add_change, show_change


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_change(parser)
    parser.epilog = "a second rollback undoes the first"


def run(arguments: argparse.Namespace) -> int:
    """Roll back; 0 if every HTTP process answers with the version."""
    from serve.release.change import rollback
    from serve.release.directory import this_user

    return show_change(
        arguments,
        lambda: rollback(
            arguments.directory,
            who=this_user(),
            why=arguments.why,
            generation=arguments.generation,
        ),
    )
