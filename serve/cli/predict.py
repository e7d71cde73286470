"""`textloop predict`: classify a whole file."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from serve.cli.which import add_bundle, named_bundle


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_bundle(parser, overrides=False)
    parser.add_argument("--input", type=Path, required=True, help=".jsonl .csv .tsv .parquet")
    parser.add_argument("--output", type=Path, required=True, help="same formats as --input")
    parser.add_argument("--text-columns", help="comma-separated; default: the bundle's")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N; default: auto")
    parser.add_argument(
        "--backend",
        default="auto",
        choices=["auto", "torch", "onnx"],
        help="default: auto, the int8 export on the CPU, if any",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=64,
        help="maximum texts per forward pass; long ones fewer; default: 64",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the rows of the input with predictions to the output."""
    from serve.predict_file import Stopped, check_paths

    bundle = named_bundle(arguments)
    if arguments.overrides:
        raise ValueError(
            f"`{arguments.overrides[0]}`: predict has options, and no keys to override"
        )
    if arguments.batch_size < 1:
        raise ValueError(f"--batch-size {arguments.batch_size}: give at least 1 text")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", arguments.device):
        raise ValueError(f"--device {arguments.device}: expected auto, cpu, cuda or cuda:N")
    arguments.goes_on = lambda: "no row was classified"
    check_paths(arguments.input, arguments.output)
    try:
        counts = _predict_rows(bundle, arguments)
    except Stopped as stopped:
        where = str(stopped)
        arguments.goes_on = lambda: where
        raise (stopped.__cause__ or stopped) from None
    except FloatingPointError as error:
        raise ValueError(str(error)) from None
    print(
        f"wrote {counts['rows']} rows to {arguments.output} "
        f"({counts['resumed']} from an earlier run, {counts['failed']} failed)"
    )
    return 0


def _predict_rows(bundle: Path, arguments: argparse.Namespace) -> dict[str, int]:
    from serve.inference.predictor import Predictor
    from serve.predict_file import predict_file

    predictor = Predictor.load(
        bundle,
        device=arguments.device,
        backend=arguments.backend,
        batch_size=arguments.batch_size,
    )
    columns = predictor.bundle.manifest.text_columns
    if arguments.text_columns is not None:
        columns = tuple(arguments.text_columns.split(","))
    if len(columns) != len(predictor.bundle.manifest.text_columns):
        raise ValueError(
            f"--text-columns names {len(columns)} columns, the model takes "
            f"{len(predictor.bundle.manifest.text_columns)}"
        )
    if arguments.output.exists():
        print(f"note: {arguments.output} exists and will be replaced", file=sys.stderr)
    counts = predict_file(predictor, arguments.input, arguments.output, text_columns=columns)
    if not counts["rows"]:
        print(f"note: {arguments.input} has no rows", file=sys.stderr)
    return counts
