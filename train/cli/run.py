"""`textloop run`: fit, merge and evaluate."""

from __future__ import annotations

import argparse
import shlex

from train.cli.options import add_device, add_fresh, add_run, goes_on_from, load_run
from train.pipeline import evaluate_run, merge_run
from train.processes import add_processes, launch_processes


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_run(parser)
    add_device(parser, "for merge and evaluate: ")
    add_fresh(parser)
    add_processes(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the three stages, the first one only if it is not done yet."""
    config = load_run(arguments)
    directory, fresh = config.output_dir, arguments.fresh
    arguments.goes_on = goes_on_from(directory, fresh=fresh)
    from train.preflight import check_inputs

    check_inputs(config)
    if arguments.processes is not None:
        return launch_processes("run", config, arguments)
    from accelerate import PartialState

    from train.fit.fit import fit_unless_done

    fit_unless_done(config, fresh=fresh)
    arguments.goes_on = goes_on_from(directory, fresh=fresh, fitted=True)
    if not PartialState().is_main_process:  # of several processes the first does both
        return 0
    print("merge:")
    merge_run(config, device=arguments.device)
    print("evaluate:")
    full = evaluate_run(config, device=arguments.device).full
    from train.statistics.metrics import shown_name

    accuracy = f"{shown_name('accuracy', config.task)} {full.intervals['accuracy']}"
    print(f"test {accuracy} on {len(full.reference_NC):,} rows")
    print(f"next: textloop serve {shlex.quote(str(directory))}")
    return 0
