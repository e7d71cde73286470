"""What a deployment directory holds and who serves it, for `textloop status`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serve.release.bundles import Deployed, list_deployed
from serve.release.change import interrupted
from serve.release.directory import check_deployment
from serve.release.history import Change, read_history
from serve.release.pointer import Pointer, ReleaseError, read_pointer
from serve.release.servers import ServerStatus, live_servers, other_servers
from serve.release.waiting import has_switched


@dataclass(frozen=True, kw_only=True)
class State:
    """A deployment directory at one moment."""

    pointer: Pointer | None
    problems: tuple[str, ...]
    """What is damaged, with the remedy; if the pointer is, the first one says so."""
    is_pointer_damaged: bool
    interrupted: tuple[Change, ...]
    """Changes since the pointer that did not take effect."""
    bundles: tuple[Deployed, ...]
    servers: tuple[ServerStatus, ...]
    """Of this machine."""
    elsewhere: tuple[ServerStatus, ...]
    """Last statuses of servers of other machines, which may be gone."""

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return {
            "pointer": self.pointer.model_dump(mode="json") if self.pointer else None,
            "problems": list(self.problems),
            "interrupted": [each.model_dump(mode="json") for each in self.interrupted],
            "bundles": [{**asdict(each), "deployed": iso(each.deployed)} for each in self.bundles],
            "servers": [each.model_dump(mode="json") for each in self.servers],
            "elsewhere": [each.model_dump(mode="json") for each in self.elsewhere],
        }


def read_state(directory: Path) -> State:
    """Look at a deployment directory; damage is part of the state. Raises ReleaseError, OSError."""
    check_deployment(directory)
    problems = []
    pointer, is_damaged = None, False
    try:
        pointer = read_pointer(directory)
    except ReleaseError as error:
        is_damaged = True
        problems.append(str(error))
    history = read_history(directory)
    if damaged := sum(entry.state == "damaged" for entry in history):
        problems.append(
            f"{damaged} line{'s' if damaged > 1 else ''} of the history cannot be read; the others "
            "hold, and changes go on"
        )
    bundles = list_deployed(directory)
    for role in ("champion", "previous"):
        version = getattr(pointer, role, None)
        if version is not None and version not in {each.version for each in bundles}:
            problems.append(f"the bundle of the {role}, {version}, is missing; deploy it again")
    return State(
        pointer=pointer,
        problems=tuple(problems),
        is_pointer_damaged=is_damaged,
        interrupted=tuple(interrupted(history)),
        bundles=tuple(bundles),
        servers=tuple(live_servers(directory)),
        elsewhere=tuple(other_servers(directory)),
    )


def to_text(state: State) -> str:
    """Format the state for the console."""
    lines = [_pointer_line(state)]
    lines += [f"problem: {each}" for each in state.problems]
    lines += [
        f"interrupted: promotion of {each.pointer.champion} by {each.pointer.who} at "
        f"{each.pointer.time} did not take effect"
        for each in state.interrupted
    ]
    lines.append(f"bundles: {_megabytes(sum(each.bytes for each in state.bundles))}")
    lines += [f"  {_bundle_line(each, state.pointer)}" for each in state.bundles]
    lines.append("servers:" if state.servers else "servers: none on this machine")
    lines += [f"  {line}" for each in state.servers for line in server_lines(each, state.pointer)]
    lines += [
        f"  on another machine: {each.host}, process {each.pid}, version {each.version}, "
        f"generation {each.generation}, last heard of {each.updated}"
        for each in state.elsewhere
    ]
    return "\n".join(lines)


def server_lines(server: ServerStatus, pointer: Pointer | None) -> list[str]:
    """Describe a server: what it answers with, and what it is doing."""
    generations = sorted({each.generation or 0 for each in server.http})
    by = ", ".join(map(str, generations)) or "none"
    line = f"{server.url} (process {server.pid}): version {server.version}, HTTP processes at "
    line += f"generation {by}"
    if pointer is not None and not has_switched(server, pointer.generation):
        line += f", not at {pointer.generation} yet"
    lines = [line]
    if server.loading:
        lines.append(f"  loads {server.loading}")
    if server.retired:
        lines.append(f"  keeps {server.retired} loaded")
    if server.refused:
        lines.append(f"  refused {server.refused.version}: {server.refused.reason}")
    return lines


def iso(seconds: float) -> str:
    """Return a time as ISO 8601, UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _pointer_line(state: State) -> str:
    if (pointer := state.pointer) is None:
        return (
            "champion: unknown" if state.is_pointer_damaged else "champion: none was promoted yet"
        )
    line = f"champion: {pointer.champion}, generation {pointer.generation}, {pointer.time} by "
    line += pointer.who
    line += f": {pointer.why}" if pointer.why else ""
    return f"{line}\nprevious: {pointer.previous or 'none'}"


def _bundle_line(bundle: Deployed, pointer: Pointer | None) -> str:
    roles = [
        role for role in ("champion", "previous") if getattr(pointer, role, None) == bundle.version
    ]
    notes = [*roles, *(["gate report"] if bundle.has_gate_report else [])]
    line = f"{bundle.version}  {_megabytes(bundle.bytes):>10}  {iso(bundle.deployed)}"
    return f"{line}  {', '.join(notes)}".rstrip()


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
