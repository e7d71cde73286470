"""Which groups of model processes answer: written by the main process, read by HTTP processes.

`routing.json` in the server's own directory is replaced as a whole, so a reader sees the old
groups or the new ones. Each HTTP process reports in `http-PID.json` what it answers with and which
groups it still uses; the main process ends a group that nobody uses. Pure, but for the two files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from serve.release.servers import RefusedVersion

FILE = "routing.json"


@dataclass(frozen=True, kw_only=True)
class Group:
    """The model processes of one bundle."""

    name: str
    """Unique in the life of the server."""
    version: str
    bundle: str
    """Path of the bundle that they have loaded."""
    sockets: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Routing:
    """What every HTTP process is to answer with."""

    generation: int
    """Of the deployment directory; 0 for a server of one bundle."""
    champion: Group
    retired: Group | None = None
    """The group that was champion before, ready to be it again."""
    refused: RefusedVersion | None = None
    """The last refusal since the server was started."""
    num_refused: int = 0

    @property
    def groups(self) -> list[Group]:
        """Those that answer, the champion first."""
        return [self.champion, *([self.retired] if self.retired else [])]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What one HTTP process answers with."""

    generation: int
    groups: tuple[str, ...]
    """Names of the groups that it is connected to."""


def write_routing(runtime: Path, routing: Routing) -> None:
    """Replace the routing of a server."""
    refused = routing.refused.model_dump() if routing.refused else None
    _write(runtime / FILE, asdict(routing) | {"refused": refused})


def read_routing(runtime: Path) -> Routing:
    """Return the routing of a server."""
    values = json.loads((runtime / FILE).read_bytes())
    retired, refused = values["retired"], values["refused"]
    return Routing(
        generation=values["generation"],
        champion=_group(values["champion"]),
        retired=_group(retired) if retired else None,
        refused=RefusedVersion(**refused) if refused else None,
        num_refused=values["num_refused"],
    )


def routing_stamp(runtime: Path) -> tuple[int, int]:
    """Return what changes when the routing is replaced."""
    found = os.stat(runtime / FILE)
    return found.st_ino, found.st_mtime_ns


def write_report(runtime: Path, report: Report) -> None:
    """Replace what this HTTP process reports."""
    _write(runtime / _report_name(os.getpid()), asdict(report))


def read_reports(runtime: Path, pids: Iterable[int]) -> dict[int, Report]:
    """Return the reports of HTTP processes by pid; none of one that has not reported yet."""
    found = {}
    for pid in pids:
        try:
            values = json.loads((runtime / _report_name(pid)).read_bytes())
        except FileNotFoundError:
            continue
        found[pid] = Report(generation=values["generation"], groups=tuple(values["groups"]))
    return found


def _report_name(pid: int) -> str:
    return f"http-{pid}.json"


def _group(values: dict[str, Any]) -> Group:
    return Group(**values | {"sockets": tuple(values["sockets"])})


def _write(path: Path, values: dict[str, Any]) -> None:
    """Replace a file that need not outlive the machine, so without a sync."""
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(values))
    temporary.replace(path)
