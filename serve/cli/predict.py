"""`textloop predict`: classify a whole file."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from serve.cli.which import add_bundle, named_bundle

if TYPE_CHECKING:
    from serve.formats.options import ReadOptions


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_bundle(parser, overrides=False)
    parser.add_argument(
        "--input", type=Path, help=".jsonl .csv .tsv .parquet; a file may stand without --input"
    )
    parser.add_argument(
        "--output", type=Path, help="same formats; default: beside the input, as NAME.labelled.EXT"
    )
    parser.add_argument("--text-columns", help="comma-separated; default: the bundle's")
    parser.add_argument("--encoding", help="of the input, such as cp1252; default: UTF-8")
    parser.add_argument("--delimiter", help="between the values of a CSV; default: detected")
    parser.add_argument(
        "--quoting",
        default="auto",
        choices=["auto", "csv", "none"],
        help="csv: quotes enclose values; none: quotes are text; default: auto",
    )
    parser.add_argument("--column-names", help="of a CSV without a header, comma-separated")
    parser.add_argument(
        "--max-row-mb", type=int, default=256, help="longest row, in MB; default: 256"
    )
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

    _name_files(arguments)
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
    options = _read_options(arguments)
    try:
        counts = _predict_rows(bundle, arguments, options)
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


def _name_files(arguments: argparse.Namespace) -> None:
    """Take a file among the words as the input, and name the output after it.

    Raises ValueError if there is no input.
    """
    files = [word for word in arguments.overrides if Path(word).is_file()]
    if arguments.input is None and files:
        arguments.input = Path(files[0])
        arguments.overrides.remove(files[0])
    if arguments.input is None:
        raise ValueError("name the file to classify: textloop predict FILE, or --input FILE")
    if arguments.output is None:
        stem, _, ending = arguments.input.name.partition(".")
        arguments.output = arguments.input.with_name(f"{stem}.labelled.{ending}".rstrip("."))


def _read_options(arguments: argparse.Namespace) -> ReadOptions:
    """Return how the input is to be read: the keys of `data` that a run has for it, as options."""
    from serve.formats.options import ReadOptions, as_delimiter, as_encoding

    checked: dict[str, str | None] = {"delimiter": None, "encoding": None}
    for name, check in (("delimiter", as_delimiter), ("encoding", as_encoding)):
        if (value := getattr(arguments, name)) is not None:
            try:
                checked[name] = check(value)
            except ValueError as error:
                raise ValueError(f"--{name} {value}: {error}") from None
    if arguments.max_row_mb < 1:
        raise ValueError(f"--max-row-mb {arguments.max_row_mb}: give at least 1 MB")
    names = tuple(arguments.column_names.split(",")) if arguments.column_names else ()
    return ReadOptions(
        delimiter=checked["delimiter"],
        encoding=checked["encoding"],
        quoting=arguments.quoting,
        max_row_bytes=arguments.max_row_mb * 1_000_000,
        column_names=names,
        key="--",
    )


def _predict_rows(
    bundle: Path, arguments: argparse.Namespace, options: ReadOptions
) -> dict[str, int]:
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
    counts = predict_file(
        predictor, arguments.input, arguments.output, text_columns=columns, options=options
    )
    if not counts["rows"]:
        print(f"note: {arguments.input} has no rows", file=sys.stderr)
    return counts
