"""`textloop deploy`: copy a bundle into a deployment directory."""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("directory", metavar="DIR", type=Path, help="the deployment directory; "
                        "made if it does not exist")  # fmt: skip
    parser.add_argument(
        "bundle",
        metavar="BUNDLE",
        help="a bundle, a run, hub:OWNER/NAME[@REVISION], or a URL such as s3://BUCKET/PREFIX",
    )
    parser.add_argument(
        "--gate",
        type=Path,
        metavar="REPORT",
        help="JSON report of `textloop gate` to store with it",
    )
    parser.epilog = "the last line printed is the version, for `textloop promote`"


def run(arguments: argparse.Namespace) -> int:
    """Copy, verify, and print the version."""
    from serve.release.bundles import deploy

    arguments.goes_on = lambda: "the same command starts over"
    print(deploy(arguments.directory, arguments.bundle, gate_report=arguments.gate))
    return 0
