"""`textloop publish`: publish the bundle to the Hub, S3 or a directory."""

from __future__ import annotations

import argparse
from pathlib import Path

from train.cli.options import add_run, load_run


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_run(parser)
    parser.add_argument("--bundle", type=Path, help="a bundle other than the run's own")
    parser.add_argument("--to", help="hub:OWNER/NAME, s3://BUCKET/PREFIX or a directory")


def run(arguments: argparse.Namespace) -> int:
    """Publish, and print what was written where."""
    config = load_run(arguments)
    from train.publish.publish import publish

    for line in publish(config, bundle=arguments.bundle, to=arguments.to):
        print(line)
    return 0
