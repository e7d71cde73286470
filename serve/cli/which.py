"""Which bundle a command means: its argument, `--bundle`, or the run of this folder."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

RUN_CONFIG = Path("textloop.yaml")
"""Configuration of the run of a folder; its bundle is meant where none is named."""

_OVERRIDE = re.compile(r"[A-Za-z_][\w.]*=")


def add_bundle(parser: argparse.ArgumentParser, *, overrides: bool) -> None:
    """Add the bundle, as `--bundle` or as a word, and words that are overrides of keys."""
    parser.add_argument(
        "--bundle", type=Path, help="the same as DIR: a bundle, or a run that has one"
    )
    if overrides:
        parser.set_defaults(keys="server")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="DIR" + (" key=value" if overrides else ""),
        help=f"a bundle, or the directory of a run; default: the run of {RUN_CONFIG} in this folder"
        + ("; key=value overrides a configuration key" if overrides else ""),
    )


def named_bundle(arguments: argparse.Namespace) -> Path:
    """Return the bundle that is meant; only overrides stay in `arguments.overrides`.

    Raises ValueError if none is named, or two are.
    """
    words = words_of(arguments)
    arguments.overrides = [each for each in arguments.overrides if _OVERRIDE.match(each)]
    named = [*([arguments.bundle] if arguments.bundle else []), *map(Path, words)]
    if len(named) > 1:
        raise ValueError(f"one bundle, please: {' and '.join(f'`{each}`' for each in named)}")
    return named[0] if named else _of_this_folder()


def words_of(arguments: argparse.Namespace) -> list[str]:
    """Return the words that are no overrides of keys."""
    return [each for each in arguments.overrides if not _OVERRIDE.match(each)]


def _of_this_folder() -> Path:
    if not RUN_CONFIG.is_file():
        raise ValueError(
            f"name a bundle, or the directory of a run: there is no `{RUN_CONFIG}` in this folder"
        )
    from serve.language.yaml12 import read_yaml

    values = read_yaml(RUN_CONFIG)
    directory = values.get("output_dir") if isinstance(values, dict) else None
    if not isinstance(directory, str):
        raise ValueError(f"name a bundle: `{RUN_CONFIG}` has no output_dir")
    return Path(directory)
