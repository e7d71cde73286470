"""`textloop merge`: from what `fit` trained to a sealed bundle."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from train.cli.options import add_device, add_run, load_run

if TYPE_CHECKING:
    from train.config.run import RunConfig


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_run(parser)
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    """Merge, calibrate, export, verify and seal."""
    return merge_run(load_run(arguments), device=arguments.device)


def merge_run(config: RunConfig, *, device: str) -> int:
    """Merge a run and print what came out."""
    from train.preflight import check_inputs, read_fitted

    read_fitted(config.output_dir / "adapter")
    check_inputs(config)
    from train.merge.merge import merge
    from train.merge.summary import summary_lines

    bundle = merge(config, device=device)
    print("\n".join(summary_lines(bundle)))
    return 0
