"""What `promote` and `rollback` share: their options, the wait for the servers, what they print."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serve.release.change import Changed
    from serve.release.waiting import Waited

TIMEOUT_S = 300.0
"""Default of --timeout; loading a large model takes a minute or more."""

UNDONE_S = 30.0
"""Seconds for the servers to report the generation that undoes a refused one; nothing is loaded."""


def add_change(parser: argparse.ArgumentParser) -> None:
    """Add the options of a change."""
    parser.add_argument("directory", metavar="DIR", type=Path, help="the deployment directory")
    parser.add_argument("--why", default="", metavar="TEXT", help="the reason, for the history")
    parser.add_argument(
        "--generation",
        type=not_negative,
        metavar="N",
        help="refuse unless this is the present generation; 0: unless nothing was promoted yet",
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=TIMEOUT_S,
        metavar="SECONDS",
        help=f"how long to wait for the servers of this machine; default: {TIMEOUT_S:g}",
    )


def show_change(arguments: argparse.Namespace, change: Callable[[], Changed]) -> int:
    """Make a change, wait for the servers, and say what they did.

    Returns 0; 1 if a server refused, after undoing the change; 3 if they did not all switch in
    time. Exceptions are those of the change.
    """
    from serve.release.change import undo
    from serve.release.directory import ReleaseBusy, this_user
    from serve.release.waiting import wait_for

    directory = arguments.directory
    try:
        changed = change()
    except ReleaseBusy as busy:
        print(f"not changed: {busy}")
        return 3
    pointer = changed.pointer
    said = "was the champion already" if not changed.is_new else "is the champion"
    print(f"{pointer.champion} {said}, generation {pointer.generation}")
    arguments.goes_on = lambda: (
        f"the pointer is at generation {pointer.generation}; `textloop status {directory}` shows "
        "which servers follow it"
    )
    waited = wait_for(directory, pointer.generation, timeout_s=arguments.timeout)
    if waited.outcome != "refused":
        return _say(waited, pointer.generation)
    refusing = waited.refusing
    reason = refusing.refused.reason if refusing.refused else ""
    print(f"refused by {refusing.name}: {reason}")
    undone = None
    if changed.is_new:
        why = f"refused by {refusing.name}: {reason}"
        undone = undo(directory, changed, who=this_user(), why=why)
    if undone is None:
        print("the pointer stays: this command did not change it, somebody else has changed it "
              "since, or there was none before")  # fmt: skip
        return 1
    back = undone.pointer
    waited = wait_for(directory, back.generation, timeout_s=min(UNDONE_S, arguments.timeout))
    print(f"{back.champion} is the champion again, generation {back.generation}")
    _say(waited, back.generation)
    return 1


def _say(waited: Waited, generation: int) -> int:
    from serve.release.state import server_lines

    if waited.outcome == "none":
        print("no server of this directory runs on this machine; the next one to start uses it")
        return 0
    if waited.outcome == "switched":
        processes = sum(len(each.http) for each in waited.servers)
        print(f"answered by {processes} HTTP processes of {len(waited.servers)} servers after "
              f"{waited.seconds:.2f} s")  # fmt: skip
        return 0
    if waited.outcome == "ended":
        print(f"the servers ended before they answered by generation {generation}; the next one "
              "to start uses it")  # fmt: skip
    else:
        print(f"not every server answers by generation {generation} after {waited.seconds:.0f} s; "
              "the pointer stays, and they may still follow it:")  # fmt: skip
    for server in waited.servers:
        print("\n".join(server_lines(server, None)))
    return 3


def not_negative(text: str) -> int:
    """Parse a number of 0 or more."""
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no whole number of 0 or more")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no number of seconds from 0 to 86400")
    return value
