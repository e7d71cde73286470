"""Checkpoints to import, and the command that imports them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serve.command.run import CommandParser
from serve.language.lines import first_line
from tests.train.importing.checkpoints import classifier
from train.importing import command
from train.importing.convert import Imported, convert, describe
from train.importing.labels import Naming
from train.importing.source import open_source


@pytest.fixture
def make(tiny_base: Path, tmp_path: Path) -> Callable[..., Path]:
    """Makes a checkpoint of an architecture, by default BERT, in `tmp_path/source`."""

    def make(name: str = "bert", **settings: Any) -> Path:
        return classifier(name, tiny_base, tmp_path / "source", **settings)

    return make


def bring(source: Path, output: Path, *, pair: bool = False, **options: Any) -> Imported:
    """Import a directory without texts."""
    naming = Naming(renames={}, **options.pop("naming", {}))
    columns = ("text", "text_pair") if pair else ("text",)
    return convert(
        describe(open_source(str(source)), naming), output, text_columns=columns, **options
    )


def run(*arguments: object) -> int:
    """Run `textloop import` in this process."""
    parser = CommandParser(prog="textloop import")
    command.configure(parser)
    return command.run(parser.parse_args([str(each) for each in arguments]))


def refusal_of(source: Path, output: Path, **options: Any) -> str:
    """Import what must be refused; return the message, one line, with nothing left behind."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the callers look at the message
        bring(source, output, **options)
    assert not output.exists()
    assert [each.name for each in output.parent.glob(f".{output.name}*")] == []
    message = str(caught.value)
    assert "\n" not in message
    assert first_line(caught.value)
    return message
