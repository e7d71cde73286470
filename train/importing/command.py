"""`textloop import SOURCE --output DIR`: make a bundle of any Hugging Face sequence classifier."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from serve.command.run import CommandParser

if TYPE_CHECKING:
    from train.importing.convert import Described, Imported
    from train.importing.rows import UserRows

DESCRIPTION = """\
Make a sealed bundle of a Hugging Face sequence classifier that was trained elsewhere. Its logits
are compared with the stock pipeline's; a difference refuses it. With --texts it also gets an int8
export for CPUs, if that agrees with full precision; with --label-column also calibration, label
thresholds, abstention (calibration.max_risk=0.05) and metrics."""


def configure(parser: CommandParser) -> None:
    """Add the options of `textloop import`."""
    parser.description = DESCRIPTION
    add = parser.add_argument
    add("source", metavar="SOURCE", help="a directory, or hub:OWNER/NAME[@REVISION]")
    add("--output", type=Path, required=True, metavar="DIR", help="directory of the new bundle")
    add(
        "--labels",
        metavar="NAMES",
        help="label names in the order of the model's outputs: a file with one a line, or a,b,c",
    )
    add(
        "--label-map",
        action="append",
        default=[],
        metavar="OLD=NEW",
        help="a new name for one label; repeat for more",
    )
    add("--task", choices=["single_label", "multi_label"], help="default: problem_type's")
    add(
        "--text-columns",
        metavar="NAMES",
        help="input columns; two, with a comma, for text pairs (default: text)",
    )
    add("--max-length", type=int, metavar="TOKENS", help="default: what the model takes")
    add(
        "--max-weights-gb",
        type=float,
        metavar="GB",
        help="refuse larger files of weights (default: 20)",
    )
    add("--texts", type=Path, metavar="FILE", help="CSV, TSV, JSON lines, JSON or Parquet")
    add("--label-column", metavar="NAME", help="column of --texts with the true labels")
    add(
        "--label-separator",
        metavar="TEXT",
        help="separator of several labels in that column (default: |)",
    )
    add("--max-texts", type=int, metavar="N", help="rows of --texts to use (default: 20000)")
    add(
        "overrides",
        nargs="*",
        metavar="key.sub=value",
        help="keys of calibration, with --label-column",
    )


def run(arguments: argparse.Namespace) -> int:
    """Import; return 0, or 1 if the model was refused. Raises ValueError for a wrong argument."""
    check(arguments)
    from train.importing.refusal import ImportRefused, require_torch

    require_torch(arguments.source)
    from train.importing.summary import summary_lines

    try:
        imported = _import(arguments)
    except ImportRefused as refusal:
        print(f"refused: {refusal}")
        return 1
    print("\n".join(summary_lines(imported)))
    return 0


def check(arguments: argparse.Namespace) -> None:
    """Raise ValueError for arguments that contradict each other, before anything is read."""
    for option in ("label_column", "max_texts"):
        if getattr(arguments, option) is not None and arguments.texts is None:
            raise ValueError(f"--{option.replace('_', '-')} is about --texts, which is not given")
    if arguments.label_column is None:
        if arguments.label_separator is not None:
            raise ValueError("--label-separator is about --label-column, which is not given")
        if arguments.overrides:
            raise ValueError(
                f"`{arguments.overrides[0]}`: a calibration is fitted with labels only; name their "
                "column with --label-column"
            )
    if arguments.texts is not None and not arguments.texts.exists():
        raise ValueError(f"--texts: there is no file `{arguments.texts}`")
    for option in ("max_texts", "max_weights_gb"):
        value = getattr(arguments, option)
        if value is not None and not value > 0:
            raise ValueError(f"--{option.replace('_', '-')} {value}: expected more than 0")
    _check_output(arguments.output, arguments.source)


def _check_output(output: Path, source: str) -> None:
    """Nothing is replaced, and nothing is written into the source."""
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise ValueError(f"--output `{output}` exists and is no directory; choose another")
    if output.is_dir() and any(output.iterdir()):
        raise ValueError(f"--output `{output}` exists; remove it first, or choose another")
    inside = Path(source).resolve()
    if Path(source).is_dir() and output.resolve().is_relative_to(inside):
        raise ValueError(f"--output `{output}` is inside the source; choose another place")


def _import(arguments: argparse.Namespace) -> Imported:
    from serve.privacy import refuse_hub_kernels
    from train.importing.convert import convert, describe
    from train.importing.labels import Naming, read_names, read_renames
    from train.importing.source import MAX_WEIGHTS_GB, open_source

    columns = tuple(_columns(arguments.text_columns))
    naming = Naming(
        labels=read_names(arguments.labels) if arguments.labels is not None else (),
        renames=read_renames(arguments.label_map),
        task=arguments.task,
    )
    source = open_source(
        arguments.source, max_weights_gb=arguments.max_weights_gb or MAX_WEIGHTS_GB
    )
    described = describe(source, naming)
    options = {"text_columns": columns, "max_length": arguments.max_length}
    if arguments.texts is None:
        return convert(described, arguments.output, **options)
    refuse_hub_kernels()
    rows = _user_rows(arguments, described, columns)
    from train.importing.fitting import fit_on, record_user_metrics

    return convert(
        described,
        arguments.output,
        texts=rows.texts,
        fit=lambda checkpoint, staging: fit_on(rows, checkpoint, staging),
        measure=lambda bundle: record_user_metrics(rows, bundle),
        **options,
    )


def _columns(given: str | None) -> list[str]:
    names = ["text"] if given is None else [name.strip() for name in given.split(",")]
    if len(names) > 2 or "" in names or len(set(names)) < len(names):
        raise ValueError(f"--text-columns {given}: expected one name, or two for text pairs")
    return names


def _user_rows(
    arguments: argparse.Namespace, described: Described, columns: tuple[str, ...]
) -> UserRows:
    from serve.config import load_config
    from train.importing.rows import MAX_TEXTS, ImportConfig, print_note, read_user_rows

    config = load_config(ImportConfig, None, arguments.overrides)
    rows = read_user_rows(
        arguments.texts,
        text_columns=columns,
        label_column=arguments.label_column,
        label_separator=arguments.label_separator or "|",
        task=described.task,
        labels=described.labels,
        calibration=config.calibration,
        max_texts=arguments.max_texts or MAX_TEXTS,
    )
    for note in rows.notes:
        print_note(note)
    return rows
