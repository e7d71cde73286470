"""Corrections of single rows: suggested by `prepare`, reviewed by a person, applied on reading.

The file has one JSON object per line. A person deletes lines, or edits `action` and `suggested`:

    {"action": "relabel", "source": "train", "row": 17, "sha256": "5f0c...",
     "text": "...", "label": "card_lost", "suggested": "card_stolen", "reason": "..."}

action: drop skips the row, relabel gives it the label `suggested`, keep does nothing. A row is
identified by the key under `data` that names its source, its number there (from 1, including
unusable rows) and the hash of its content, so a fix never changes a row it was not written for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serve.files import write_atomic
from serve.inference.text import Text
from train.config.data import DataConfig
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
    """For the reader; the row is identified by its hash."""

    label: Label | None = None
    """For the reader: the row's current label."""

    suggested: Label | None = None
    """The new label for `relabel`: a string, or a list for a multi-label task."""

    reason: str = ""


def row_hash(text: Text, labels: Labels) -> str:
    """Hash a row's content to 16 hex digits."""
    return hashlib.sha256(content_line(text, labels)).hexdigest()[:16]


@dataclass(kw_only=True)
class Fixes:
    """The fixes of a file that have not been applied yet, and counts of those that have."""

    path: Path
    sha256: str
    entries: dict[tuple[SplitName, int], tuple[int, Fix]]
    """By source and row: the line number in the file, and the fix."""

    num_rows: int = 0
    """Usable rows seen so far."""

    dropped: list[tuple[SplitName, Text]] = field(default_factory=list)
    """Source and text of each."""

    relabelled: list[tuple[SplitName, int]] = field(default_factory=list)
    """Source and row of each."""

    def apply(self, source: SplitName, row: int, text: Text, labels: Labels) -> Labels | None:
        """Return the corrected labels of a row, or None to drop it.

        Raises ValueError if the row's content is not what the fix was written for.
        """
        self.num_rows += 1
        line, fix = self.entries.pop((source, row), (0, None))
        if fix is None:
            return labels
        if fix.sha256 != row_hash(text, labels):
            raise ValueError(
                f"data.fixes `{self.path}`, line {line}: row {row} of data.{source} has changed "
                f"since the fix was written; it is now {str(text)[:60]!r} with {list(labels)}. "
                "Rerun `textloop prepare` without data.fixes, and review its new file"
            )
        if fix.action == "drop":
            self.dropped.append((source, text))
            return None
        if fix.action == "relabel":
            self.relabelled.append((source, row))
            assert fix.suggested is not None
            new = [fix.suggested] if isinstance(fix.suggested, str) else fix.suggested
            return tuple(sorted(set(new)))
        return labels

    def check_all_applied(self) -> None:
        """Raise ValueError if a fix names a row that does not exist."""
        for (source, row), (line, _) in self.entries.items():
            raise ValueError(
                f"data.fixes `{self.path}`, line {line}: data.{source} has no usable row {row} "
                f"({len(self.entries)} such lines); delete the line, or rerun `textloop prepare`"
            )

    def check_extent(self, num_test: int, data: DataConfig) -> None:
        """Raise ValueError if the fixes change more than `data` allows.

        num_test: how many of the changed rows are in the test split.
        """
        changed = len(self.dropped) + len(self.relabelled)
        fraction = changed / max(1, self.num_rows)
        if fraction > data.fixes_max_fraction:
            raise ValueError(
                f"data.fixes `{self.path}` changes {changed} of {self.num_rows} rows "
                f"({fraction:.1%}), more than data.fixes_max_fraction={data.fixes_max_fraction:g}; "
                "review the file, delete the lines that are not sure, or raise the limit"
            )
        if num_test and not data.fixes_change_test:
            raise ValueError(
                f"data.fixes `{self.path}` changes {num_test} rows of the test split, and metrics "
                "before and after could not be compared; review these lines and set "
                "data.fixes_change_test=true, or delete them"
            )

    def record(self) -> dict[str, Any]:
        """Return the counts of changes and the file's hash, for the manifest."""
        return {
            "rows": len(self.dropped) + len(self.relabelled),
            "dropped": len(self.dropped),
            "relabelled": len(self.relabelled),
            "sha256": self.sha256,
        }


def read_fixes(path: Path, task: str) -> Fixes:
    """Read and validate a file of fixes; ValueError names the invalid line."""
    if not path.is_file():
        raise ValueError(
            f"data.fixes: there is no file `{path}`; create one with `textloop prepare`"
        )
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
                f"{where}: row {fix.row} of data.{fix.source} already has a fix in line {before[0]}"
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
    """Write fixes, one per line, for a person to review."""
    lines = [json.dumps(fix.model_dump(), ensure_ascii=False) + "\n" for fix in fixes]
    write_atomic(path, "".join(lines).encode("utf-8"))
