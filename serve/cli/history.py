"""`textloop history`: the changes of a deployment directory."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serve.release.history import Entry


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("directory", metavar="DIR", type=Path, help="the deployment directory")
    parser.add_argument("--json", action="store_true", help="print a JSON object per line")


def run(arguments: argparse.Namespace) -> int:
    """Print the changes, oldest first."""
    from serve.release.directory import check_deployment
    from serve.release.history import read_history

    check_deployment(arguments.directory)
    for entry in read_history(arguments.directory):
        print(json.dumps(_values(entry)) if arguments.json else _line(entry))
    return 0


def _values(entry: Entry) -> dict[str, Any]:
    if entry.change is None:
        return {"state": entry.state}
    change = entry.change
    values = change.pointer.model_dump(mode="json")
    return {"state": entry.state, "action": change.action, "base": change.base, **values}


def _line(entry: Entry) -> str:
    if entry.change is None:
        return "a line that is damaged"
    change = entry.change
    pointer = change.pointer
    line = f"{pointer.generation:>4}  {pointer.time}  {change.action:<8}  {pointer.champion}  "
    line += pointer.who
    line += f": {pointer.why}" if pointer.why else ""
    return line if entry.state == "done" else f"{line}  ({entry.state})"
