"""`textloop tune`: search hyperparameters on the validation split."""

from __future__ import annotations

import argparse

from train.cli.options import add_run, load_run


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_run(parser)


def run(arguments: argparse.Namespace) -> int:
    """Search, and write the best configuration."""
    config = load_run(arguments)
    arguments.goes_on = lambda: "the same command goes on with the study"
    from train.preflight import check_inputs

    check_inputs(config)
    from train.tune.tune import tune

    result = tune(config)
    print(result.summary)
    if result.best is None:
        return 1
    print(f"wrote {result.best_file}; see report.html beside it")
    return 0
