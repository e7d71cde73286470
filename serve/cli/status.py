"""`textloop status`: the champion of a deployment directory, its bundles and servers."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("directory", metavar="DIR", type=Path, help="the deployment directory")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the state; 3 if the pointer is damaged."""
    from serve.release.state import read_state, to_text

    state = read_state(arguments.directory)
    print(json.dumps(state.to_json(), indent=2) if arguments.json else to_text(state))
    return 3 if state.is_pointer_damaged else 0
