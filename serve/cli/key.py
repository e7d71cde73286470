"""`textloop key`: create an API key."""

from __future__ import annotations

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--name", required=True, help="owner of the key; appears in the access log")


def run(arguments: argparse.Namespace) -> int:
    """Print a new key, and its line for the file of keys."""
    from serve.http.keys import new_key

    key, line = new_key(arguments.name)
    print(f"{key}\nsave this key now, it will not be shown again; add this line to the keys file:")
    print(line)
    return 0
