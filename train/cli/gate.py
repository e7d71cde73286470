"""`textloop gate`: decide whether a candidate may replace the champion."""

from __future__ import annotations

import argparse
from pathlib import Path

from train.cli.options import add_device, add_run, load_run


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_run(parser)
    parser.add_argument(
        "--candidate",
        type=Path,
        action="append",
        help="a bundle (default: the run's own); repeat for more seeds of its configuration",
    )
    parser.add_argument(
        "--champion",
        type=Path,
        action="append",
        required=True,
        help="the bundle to replace; once, or once per candidate",
    )
    add_device(parser)
    parser.add_argument(
        "--backend",
        choices=["auto", "torch", "onnx"],
        default="auto",
        help="backend for both; auto chooses as the server does on the device",
    )
    parser.add_argument("--output", type=Path, help="path of the report, as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Compare the bundles; 0 if the candidate may replace the champion."""
    config = load_run(arguments)
    from train.gate.gate import gate
    from train.gate.report import to_text

    report, path = gate(
        config,
        candidates=arguments.candidate or [config.output_dir / "bundle"],
        champions=arguments.champion,
        device=arguments.device,
        backend=arguments.backend,
        output=arguments.output,
    )
    print(to_text(report))
    print(f"wrote {path.with_suffix('.html')}, and beside it {path.name}")
    return 0 if report.passed else 1
