"""`textloop fit`: train, in this process or in several."""

from __future__ import annotations

import argparse

from train.cli.options import add_fresh, add_run, goes_on_from, load_run
from train.processes import add_processes, launch_processes


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_run(parser)
    add_fresh(parser)
    add_processes(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train the model."""
    config = load_run(arguments)
    arguments.goes_on = goes_on_from(config.output_dir, fresh=arguments.fresh)
    from train.preflight import check_inputs

    check_inputs(config)
    if arguments.processes is not None:
        return launch_processes("fit", config, arguments)
    from train.fit.fit import fit

    fit(config, fresh=arguments.fresh)
    return 0
