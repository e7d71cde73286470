"""`textloop compare RUN...`: evaluated runs side by side, as a page and a table."""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="directory of a run that was evaluated; the others are compared with the first",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("compare.html"),
        help="path of the page; default: %(default)s",
    )


def run(arguments: argparse.Namespace) -> int:
    """Compare the runs, write the page and print the table."""
    from train.preflight import check_output

    if len(arguments.runs) < 2:
        raise ValueError(f"`{arguments.runs[0]}` is one run; name two or more to compare")
    check_output(arguments.output.parent)
    from serve.files import write_atomic
    from train.compare.compare import compare
    from train.compare.page import compare_page, to_text
    from train.compare.runs import read_runs

    comparison = compare(read_runs(arguments.runs))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(arguments.output, compare_page(comparison))
    print(to_text(comparison))
    print(f"wrote {arguments.output}")
    return 0
