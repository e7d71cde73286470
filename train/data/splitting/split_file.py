"""The file that keeps the splits of texts which the hash alone does not decide.

It lies beside the data, since all runs on the same data must see the same test rows. A text is
recorded by a hash of its words; neither texts nor labels are in the file.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serve.files import write_atomic
from train.config.data import DataConfig
from train.data.addresses import expand
from train.data.rows import SplitName
from train.data.splitting.assignment import Assignment

Key = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class Content(BaseModel):
    """What the file states."""

    model_config = ConfigDict(extra="forbid", strict=True)

    format: Literal["textloop splits 1"] = "textloop splits 1"
    fractions: dict[SplitName, float]
    """The splits that the data are divided into beside train."""

    sha256: str
    """Of the splits below, so that a damaged file is noticed."""

    texts: dict[Key, SplitName]
    """The split of each text, by the first 16 hex digits of the hash of its words."""


@dataclass(frozen=True, kw_only=True)
class SplitFile:
    """Where the splits of a run's texts are kept."""

    path: Path | None
    """None if the source is no local file or directory, and `data.split_file` is not set."""

    shown: str
    """The path for messages, without the values of variables."""

    is_named: bool
    """Whether `data.split_file` names it."""

    fractions: dict[SplitName, float]

    def open(self) -> Assignment:
        """Return the assignment with the recorded splits; ValueError for a file that is not ours.

        Recorded splits by other fractions are refused: a text that is in test there would be
        trained on.
        """
        recorded = {} if self.path is None else self._read(self.path)
        return Assignment(fractions=self.fractions, recorded=recorded)

    def save(self, assignment: Assignment) -> str | None:
        """Record what the assignment added; return a note on texts that were moved, if any.

        Raises ValueError if `data.split_file` belongs to other data or cannot be written, or if
        another run has just recorded other splits.
        """
        if self.is_named and assignment.is_foreign:
            raise ValueError(
                f"data.split_file `{self.shown}` records none of the texts of data.train, so it "
                "belongs to other data, or other data.text_columns; name another path"
            )
        where = f" (recorded in `{self.shown}`)"
        if assignment.added:
            try:
                self._add(assignment)
            except OSError as error:
                if self.is_named:
                    raise ValueError(
                        f"data.split_file: cannot write `{self.shown}`: {error.strerror}"
                    ) from None
                where = f" (`{self.shown}` cannot be written: {error.strerror}"
            if self.path is None:
                where = " (not recorded: the source is no single local file or directory"
            if not where.endswith(")"):
                where += "; set data.split_file to keep them there when rows are added)"
        if not assignment.num_moved:
            return None
        moved = "1 text was" if assignment.num_moved == 1 else f"{assignment.num_moved} texts were"
        return (
            f"{moved} moved to another split than the hash gives, so that labels with few rows "
            f"have rows in train, validation and test{where}"
        )

    def _add(self, assignment: Assignment) -> None:
        if self.path is None:
            return
        with _locked(self.path.parent):
            now = self._read(self.path)
            both = now.keys() & assignment.added.keys()
            if any(now[key] != assignment.added[key] for key in both):
                raise ValueError(
                    f"another run has just recorded other splits in `{self.shown}`; start again"
                )
            texts = {f"{key:016x}": name for key, name in (now | assignment.added).items()}
            texts = dict(sorted(texts.items()))
            content = Content(fractions=self.fractions, sha256=_digest(texts), texts=texts)
            write_atomic(self.path, (content.model_dump_json(indent=1) + "\n").encode())

    def _read(self, path: Path) -> dict[int, SplitName]:
        if not path.exists():
            return {}
        remedy = "restore it from a copy, or move it away to split the data anew"
        try:
            content = Content.model_validate_json(path.read_bytes())
        except OSError as error:
            raise ValueError(
                f"data.split_file: cannot read `{self.shown}`: {error.strerror}"
            ) from None
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"])) or "the content"
            raise ValueError(
                f"data.split_file `{self.shown}` is damaged or no file of splits ({key}: "
                f"{first['msg']}); {remedy}"
            ) from None
        if content.sha256 != _digest(content.texts):
            raise ValueError(f"data.split_file `{self.shown}` is damaged or was edited; {remedy}")
        if content.fractions != self.fractions:
            raise ValueError(
                f"`{self.shown}` records splits by {_shown(content.fractions)}; now they would be "
                f"made by {_shown(self.fractions)}, and texts recorded as test rows could get into "
                "train; set the fractions back, or data.split_file to another path to split anew"
            )
        return {int(key, 16): name for key, name in content.texts.items()}


def split_file(data: DataConfig, missing: list[SplitName]) -> SplitFile:
    """Return where the splits are kept. missing: the splits to make, validation first."""
    path, shown = _beside(data.train)
    if data.split_file is not None:
        path, shown = Path(data.split_file), data.split_file
    fractions = {
        name: data.validation_fraction if name == "validation" else data.test_fraction
        for name in missing
    }
    is_named = data.split_file is not None
    return SplitFile(path=path, shown=shown, is_named=is_named, fractions=fractions)


def _beside(source: str) -> tuple[Path | None, str]:
    """Return the path beside a local file or directory, and how to show it."""
    path = Path(expand(source).text)
    if not path.name or not path.exists():
        return None, ""
    return path.with_name(f"{path.name}.splits"), f"{source.rstrip('/')}.splits"


def _digest(texts: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(dict(texts), sort_keys=True).encode()).hexdigest()


def _shown(fractions: Mapping[SplitName, float]) -> str:
    return " and ".join(f"data.{name}_fraction={value:g}" for name, value in fractions.items())


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Exclude other runs that record splits in the directory."""
    opened = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)
