"""Call `textloop init` in this process, and read what it writes."""

from __future__ import annotations

import csv
import io
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rows import FILLER, TOPICS

from serve.command.run import CommandParser
from serve.config import load_config
from train.config.run import RunConfig
from train.init import command


@dataclass(frozen=True)
class Initiated:
    """What `init` did."""

    config: RunConfig
    output: str
    path: Path


def init(path: Path | str, base: Path, *options: str, capsys: Any) -> Initiated:
    """Run the command on a file, in the current folder; ValueError if it refuses."""
    parser = CommandParser(prog="textloop init")
    command.configure(parser)
    arguments = parser.parse_args([str(path), "--base", str(base), *options])
    assert command.run(arguments) == 0
    config = load_config(RunConfig, arguments.output)
    return Initiated(config, capsys.readouterr().out, arguments.output)


def labelled(num_rows: int, *, seed: int = 0) -> list[tuple[str, str]]:
    """Texts that differ, each with one of three labels."""
    chooser = random.Random(seed)
    rows = []
    for number in range(num_rows):
        topic = chooser.choice(sorted(TOPICS))
        words = chooser.choices(FILLER, k=5) + chooser.choices(TOPICS[topic].split(), k=3)
        rows.append((f"{' '.join(words)} {number}", topic))
    return rows


def to_csv(rows: list[dict[str, Any]], delimiter: str = ",", *, header: bool = True) -> str:
    """Rows as a CSV file."""
    made = io.StringIO()
    writer = csv.writer(made, delimiter=delimiter)
    if header:
        writer.writerow(rows[0])
    writer.writerows(row.values() for row in rows)
    return made.getvalue()


def to_lines(rows: list[dict[str, Any]]) -> str:
    """Rows as JSON Lines."""
    return "".join(json.dumps(row) + "\n" for row in rows)
