"""Corrections of single rows: suggested by `prepare`, reviewed by a person, applied on reading.

One JSON object a line. A person deletes lines, or changes `action` and `suggested`:

    {"action": "relabel", "source": "train", "row": 17, "sha256": "5f0c...",
     "text": "...", "label": "card_lost", "suggested": "card_stolen", "reason": "..."}

action: drop leaves the row out, relabel gives it `suggested`, keep does nothing. A row is known
by the key under `data` that named its source, its number there (from 1, unusable rows counted)
and the hash of its content: a file of fixes never touches a row that it was not written for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serve.files import write_atomic
from serve.inference.text import Text
from train.data.rows import Labels, SplitName
from train.data.store import content_line

Label = str | list[str]


class Fix(BaseModel):
    """One line of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    action: Literal["drop", "relabel", "keep"]
    source: SplitName
    row: Annotated[int, Field(ge=1)]
    sha256: str
    text: str | list[str] = ""
    """For the reader; the hash says which row is meant."""

    label: Label | None = None
    """For the reader: what the row says now."""

    suggested: Label | None = None
    """The label under `relabel`: a string, or a list for a multi-label task."""

    reason: str = ""


def row_hash(text: Text, labels: Labels) -> str:
    """Sixteen hex digits that name a row's content."""
    return hashlib.sha256(content_line(text, labels)).hexdigest()[:16]


@dataclass(kw_only=True)
class Fixes:
    """A file of fixes while it is applied."""

    path: Path
    sha256: str
    entries: dict[tuple[SplitName, int], tuple[int, Fix]]
    """By source and row: the line in the file, and the fix."""

    dropped: int = 0
    relabelled: int = 0

    def apply(self, source: SplitName, row: int, text: Text, labels: Labels) -> Labels | None:
        """The labels that the row shall have, or None where it shall be left out.

        Raises ValueError if the row is not the one that the fix was written for.
        """
        line, fix = self.entries.pop((source, row), (0, None))
        if fix is None:
            return labels
        if fix.sha256 != row_hash(text, labels):
            raise ValueError(
                f"data.fixes `{self.path}`, line {line}: row {row} of data.{source} is not the "
                f"one that was meant; it holds {str(text)[:60]!r} with {list(labels)}. Run "
                "`train prepare` again without data.fixes, and review its new file"
            )
        if fix.action == "drop":
            self.dropped += 1
            return None
        if fix.action == "relabel":
            self.relabelled += 1
            assert fix.suggested is not None
            new = [fix.suggested] if isinstance(fix.suggested, str) else fix.suggested
            return tuple(sorted(set(new)))
        return labels

    def check_all_applied(self) -> None:
        """Raise ValueError if a fix names a row that was not there."""
        for (source, row), (line, _) in self.entries.items():
            raise ValueError(
                f"data.fixes `{self.path}`, line {line}: data.{source} has no usable row {row} "
                f"({len(self.entries)} such lines); delete the line, or run `train prepare` again"
            )

    def record(self) -> dict[str, Any]:
        """What was changed, for the manifest."""
        return {
            "rows": self.dropped + self.relabelled,
            "dropped": self.dropped,
            "relabelled": self.relabelled,
            "sha256": self.sha256,
        }


def read_fixes(path: Path, task: str) -> Fixes:
    """Read and check a file of fixes; ValueError names the line that is wrong."""
    if not path.is_file():
        raise ValueError(f"data.fixes: there is no file `{path}`")
    content = path.read_bytes()
    entries: dict[tuple[SplitName, int], tuple[int, Fix]] = {}
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"data.fixes `{path}`, line {number}"
        try:
            fix = Fix.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"])) or "the line"
            raise ValueError(f"{where}: {key}: {first['msg']}") from None
        if problem := _relabel_problem(fix, task):
            raise ValueError(f"{where}: {problem}")
        before = entries.setdefault((fix.source, fix.row), (number, fix))
        if before[0] != number:
            raise ValueError(
                f"{where}: row {fix.row} of data.{fix.source} is in line {before[0]} already"
            )
    return Fixes(path=path, sha256=hashlib.sha256(content).hexdigest(), entries=entries)


def _relabel_problem(fix: Fix, task: str) -> str | None:
    if fix.action != "relabel":
        return None
    if task == "multi_label":
        if not isinstance(fix.suggested, list) or not all(map(str.strip, fix.suggested)):
            return "suggested: expected a list of labels"
    elif not isinstance(fix.suggested, str) or not fix.suggested.strip():
        return "suggested: expected a label"
    return None


def write_fixes(path: Path, fixes: Iterable[Fix]) -> None:
    """Write a file of fixes, one a line, for a person to review."""
    lines = [json.dumps(fix.model_dump(), ensure_ascii=False) + "\n" for fix in fixes]
    write_atomic(path, "".join(lines).encode("utf-8"))
