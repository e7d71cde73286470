"""The gate's report beside a deployed bundle, as far as a release depends on it.

`train.gate.report` writes it; of its fields only those are read that tell which versions were
compared, with which labels, and whether the candidate passed.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from serve.bundle.contents import MAX_JSON_BYTES
from serve.files import write_atomic
from serve.release.pointer import ReleaseError, bundle_path, read_regular


class _Side(BaseModel):
    model_config = ConfigDict(frozen=True)

    version: str


class Gate(BaseModel):
    """What a release needs of a gate report."""

    model_config = ConfigDict(frozen=True)

    passed: bool
    candidates: tuple[_Side, ...]
    champions: tuple[_Side, ...]
    new_labels: tuple[str, ...]

    def compares(self, candidate: str, champion: str) -> bool:
        """Whether the report is about these versions, each alone or as one of several seeds."""
        return candidate in _versions(self.candidates) and champion in _versions(self.champions)


def gate_path(directory: Path, version: str) -> Path:
    """Return the path of the report of a version; the file need not exist."""
    path = bundle_path(directory, version)
    return path.with_name(f"{version}.gate.json")


def read_gate(path: Path, *, version: str) -> bytes:
    """Read a report. Raises ReleaseError for a file that is none, or none of this candidate."""
    data = read_regular(path, MAX_JSON_BYTES)
    gate = _parse(data, path)
    if version not in (names := _versions(gate.candidates)):
        raise ReleaseError(
            f"`{path}` is the report of candidate {', '.join(names) or 'of no bundle'}, and the "
            f"bundle has version {version}; run `textloop gate` with it as --candidate"
        )
    return data


def write_gate(directory: Path, version: str, data: bytes) -> None:
    """Store a report beside a bundle."""
    write_atomic(gate_path(directory, version), data)


def gate_of(directory: Path, version: str) -> Gate | None:
    """Return the report of a deployed version, None without one. Raises ReleaseError."""
    path = gate_path(directory, version)
    try:
        return _parse(read_regular(path, MAX_JSON_BYTES), path)
    except FileNotFoundError:
        return None


def _parse(data: bytes, path: Path) -> Gate:
    try:
        return Gate.model_validate_json(data, strict=True)
    except (ValidationError, RecursionError):
        raise ReleaseError(
            f"`{path}` is no report of `textloop gate`; name its JSON file, such as "
            "gate-CANDIDATE-vs-CHAMPION.json"
        ) from None


def _versions(sides: tuple[_Side, ...]) -> list[str]:
    return [side.version for side in sides]
