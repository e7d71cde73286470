"""`textloop evaluate`: score a bundle on the test split."""

from __future__ import annotations

import argparse
from pathlib import Path

from train.cli.options import add_device, add_run, load_run
from train.pipeline import evaluate_run


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_run(parser)
    add_device(parser)
    parser.add_argument("--bundle", type=Path, help="a bundle other than the run's own")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate the run's bundle, or another."""
    evaluate_run(load_run(arguments), bundle=arguments.bundle, device=arguments.device)
    return 0
