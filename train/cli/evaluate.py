"""`textloop evaluate`: score a bundle on the test split."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from train.cli.options import add_device, add_run, load_run

if TYPE_CHECKING:
    from train.config.run import RunConfig


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_run(parser)
    add_device(parser)
    parser.add_argument("--bundle", type=Path, help="a bundle other than the run's own")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate the run's bundle, or another."""
    return evaluate_run(load_run(arguments), bundle=arguments.bundle, device=arguments.device)


def evaluate_run(config: RunConfig, *, bundle: Path | None, device: str) -> int:
    """Evaluate a bundle, print the metrics, and attach them to the run in the trackers."""
    from train.evaluation.evaluate import evaluate
    from train.evaluation.summary import summary_lines

    result = evaluate(config, bundle=bundle, device=device)
    print("\n".join(summary_lines(result)))
    if bundle is None and (config.output_dir / "tracking.json").is_file():
        from train.fit.tracking import attach_evaluation

        for tracker in attach_evaluation(config.output_dir, result.directory):
            print(f"attached to the run in {tracker}")
    return 0
