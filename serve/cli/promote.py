"""`textloop promote`: make a deployed version the champion, and wait until it answers."""

from __future__ import annotations

import argparse

from serve.cli.switching import add_change, not_negative, show_change


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_change(parser)
    parser.add_argument("version", metavar="VERSION", help="its first digits are enough")
    parser.add_argument(
        "--keep",
        type=not_negative,
        metavar="N",
        help="afterwards, remove all bundles but those in use and the N newest others; default: "
        "remove none",
    )
    parser.add_argument(
        "--repair",
        action="store_true",
        help="also replace a pointer or a champion that is damaged; skips the comparison with it",
    )


def run(arguments: argparse.Namespace) -> int:
    """Promote; 0 if every HTTP process answers with the version."""
    from serve.release.bundles import find_version
    from serve.release.change import promote
    from serve.release.directory import check_deployment, this_user
    from serve.release.pointer import ReleaseError
    from serve.release.prune import prune

    check_deployment(arguments.directory)
    code = show_change(
        arguments,
        lambda: promote(
            arguments.directory,
            find_version(arguments.directory, arguments.version),
            who=this_user(),
            why=arguments.why,
            generation=arguments.generation,
            repair=arguments.repair,
        ),
    )
    if code == 0 and arguments.keep is not None:
        try:
            removed = prune(arguments.directory, keep=arguments.keep)
        except ReleaseError as error:
            print(f"no bundle was removed: {error}")
            return 3
        print(f"removed {', '.join(removed) or 'no bundle'}")
    return code
