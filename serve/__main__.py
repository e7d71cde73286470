"""Command line: `python -m serve run`, `python -m serve key` and `python -m serve predict`."""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

from serve.command.run import CommandParser, run_command
from serve.privacy import silence


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its exit code, see `serve.command.run`."""
    silence()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    stopped_at = [""]

    def command() -> int:
        arguments = _parser().parse_args(argv)
        arguments.stopped_at = stopped_at
        return int(arguments.command(arguments))

    return run_command(command, extra="serve", goes_on=lambda: stopped_at[0])


def _run(arguments: argparse.Namespace) -> int:
    from serve.bundle.seal import open_bundle
    from serve.config import load_config
    from serve.settings import ServeConfig

    flags = {"host": arguments.host, "port": arguments.port, "device": arguments.device}
    given = [f"{key}={value}" for key, value in flags.items() if value is not None]
    if vertex := os.environ.get("AIP_HTTP_PORT"):
        # Vertex AI sets the port that it will connect to; the command line overrides it.
        given = ["host=0.0.0.0", f"port={vertex}", *given]
    config = load_config(ServeConfig, arguments.config, [*arguments.overrides, *given])
    bundle = open_bundle(arguments.bundle)
    from serve.server import run_server

    return run_server(bundle, config)


def _key(arguments: argparse.Namespace) -> int:
    from serve.http.keys import new_key

    key, line = new_key(arguments.name)
    print(f"{key}\nsave this key now, it will not be shown again; add this line to the keys file:")
    print(line)
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    from serve.predict_file import Stopped, check_paths

    if arguments.batch_size < 1:
        raise ValueError(f"--batch-size {arguments.batch_size}: give at least 1 text")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", arguments.device):
        raise ValueError(f"--device {arguments.device}: expected auto, cpu, cuda or cuda:N")
    arguments.stopped_at[0] = "no row was classified"
    check_paths(arguments.input, arguments.output)
    try:
        counts = _predict_rows(arguments)
    except Stopped as stopped:
        arguments.stopped_at[0] = str(stopped)
        raise (stopped.__cause__ or stopped) from None
    except FloatingPointError as error:
        raise ValueError(str(error)) from None
    print(
        f"wrote {counts['rows']} rows to {arguments.output} "
        f"({counts['resumed']} from an earlier run, {counts['failed']} failed)"
    )
    return 0


def _predict_rows(arguments: argparse.Namespace) -> dict[str, int]:
    from serve.inference.predictor import Predictor
    from serve.predict_file import predict_file

    predictor = Predictor.load(
        arguments.bundle,
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


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="python -m serve", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="serve a bundle over HTTP")
    run.set_defaults(command=_run)
    run.add_argument("--bundle", type=Path, required=True, help="directory made by `train merge`")
    run.add_argument("--config", type=Path, help="YAML with the keys of ServeConfig")
    run.add_argument("--host", help="address to listen on")
    run.add_argument("--port", type=int, help="TCP port to listen on")
    run.add_argument("--device", help="auto, cpu or cuda")
    run.add_argument("overrides", nargs="*", metavar="key=value", help="override a key")

    key = commands.add_parser("key", help="create an API key")
    key.set_defaults(command=_key)
    key.add_argument("--name", required=True, help="owner of the key; appears in the access log")

    predict = commands.add_parser("predict", help="classify a whole file")
    predict.set_defaults(command=_predict)
    predict.add_argument("--bundle", type=Path, required=True, help="made by `train merge`")
    predict.add_argument("--input", type=Path, required=True, help=".jsonl .csv .tsv .parquet")
    predict.add_argument("--output", type=Path, required=True, help="same formats as --input")
    predict.add_argument("--text-columns", help="comma-separated; default: the bundle's")
    predict.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    predict.add_argument(
        "--backend",
        default="auto",
        choices=["auto", "torch", "onnx"],
        help="auto: the int8 export on the CPU, if any",
    )
    predict.add_argument(
        "--batch-size", type=int, default=64, help="maximum texts per forward pass; long ones fewer"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
