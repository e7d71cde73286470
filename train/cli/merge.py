"""`textloop merge`: from what `fit` trained to a sealed bundle."""

from __future__ import annotations

import argparse

from train.cli.options import add_device, add_run, load_run
from train.pipeline import merge_run


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_run(parser)
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    """Merge, calibrate, export, verify and seal."""
    config = load_run(arguments)
    from train.preflight import check_inputs, read_fitted

    read_fitted(config.output_dir / "adapter")
    check_inputs(config)
    merge_run(config, device=arguments.device)
    return 0
