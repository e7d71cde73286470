"""What the commands of training have in common: the run's YAML, overrides, how they go on."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # pydantic takes a third of a second, in which Ctrl-C would show a traceback
    from train.config.run import RunConfig

DEFAULT_CONFIG = Path("textloop.yaml")
"""The configuration that is read where none is named."""

KEYS_HELP = "keys: `textloop config` lists them all with defaults and environment variables"


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the run's YAML and overrides of its keys."""
    parser.add_argument(
        "--config", type=Path, help=f"the run's YAML; default: {DEFAULT_CONFIG} in this folder"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key.sub=value", help="override a configuration key"
    )
    parser.set_defaults(keys="run")
    parser.epilog = KEYS_HELP


def add_device(parser: argparse.ArgumentParser, what: str = "") -> None:
    """Add the device of the model."""
    parser.add_argument("--device", default="auto", help=f"{what}auto, cpu or cuda; default: auto")


def add_fresh(parser: argparse.ArgumentParser) -> None:
    """Add the option that starts a training from the beginning."""
    parser.add_argument("--fresh", action="store_true", help="delete the run's checkpoints first")


def load_run(arguments: argparse.Namespace) -> RunConfig:
    """Read the configuration that the arguments name.

    An interrupted command starts again, unless it sets another `arguments.goes_on`.
    """
    from serve.config import load_config
    from serve.language.environment import RUN, overrides_from
    from train.config.run import RunConfig
    from train.data.addresses import hide_in_tracebacks

    hide_in_tracebacks()
    overrides = [*overrides_from(RunConfig, RUN), *arguments.overrides]
    config = load_config(RunConfig, arguments.config or default_config(), overrides)
    arguments.goes_on = lambda: "nothing is lost: the same command starts again"
    return config


def default_config() -> Path:
    """Return the run's YAML in this folder. Raises ValueError if there is none."""
    if DEFAULT_CONFIG.is_file():
        return DEFAULT_CONFIG
    names = sorted(f"`{path}`" for path in islice(Path().glob("[!.]*.y*ml"), 4))
    there = f"name one with --config ({', '.join(names)})" if names else "give one with --config"
    raise ValueError(
        f"there is no `{DEFAULT_CONFIG}` in this folder; {there}, or write it with "
        "`textloop init FILE`"
    )


def goes_on_from(output_dir: Path, *, fresh: bool, fitted: bool = False) -> Callable[[], str]:
    """Return what says how a training is continued; fitted: only later stages are left."""

    def goes_on() -> str:
        from train.fit.checkpoints import latest_complete

        same = "the same command" + (" without --fresh" if fresh else "")
        if fitted:
            return f"{same} goes on after the training"
        if checkpoint := latest_complete(output_dir / "checkpoints"):
            return f"{same} goes on from checkpoint {checkpoint.name.rpartition('-')[2]}"
        return "there is no checkpoint yet: the same command starts from the beginning"

    return goes_on
