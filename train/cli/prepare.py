"""`textloop prepare`: audit the data before training."""

from __future__ import annotations

import argparse
import shlex

from train.cli.options import add_device, add_run, load_run


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_run(parser)
    add_device(parser)
    parser.add_argument(
        "--strict",
        action="store_true",
        help="exit with 1 if splits share texts or duplicate texts have conflicting labels",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the report and the suggested fixes."""
    config = load_run(arguments)
    from train.preflight import check_inputs

    check_inputs(config)
    from train.audit.prepare import prepare, summary_lines

    prepared = prepare(config, device=arguments.device)
    print("\n".join(summary_lines(prepared)))
    print(f"wrote {prepared.directory / 'report.html'}, report.json and fixes.jsonl")
    named = ["--config", str(arguments.config)] if arguments.config else []
    print(f"next: {shlex.join(['textloop', 'run', *named, *arguments.overrides])}")
    if arguments.strict and not prepared.audit.is_clean:
        print(
            "failed (--strict): texts shared between splits, or duplicate texts with conflicting "
            "labels"
        )
        return 1
    return 0
