"""`textloop config`: the keys, what a configuration comes to, and a schema for editors."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train.cli.options import load_run

if TYPE_CHECKING:
    from serve.language.keys import Key


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--show",
        action="store_true",
        help="print the configuration with all its keys, overrides and environment applied",
    )
    what.add_argument(
        "--schema", action="store_true", help="print the JSON schema of the YAML, for editors"
    )
    parser.add_argument("--server", action="store_true", help="the server's keys, not a run's")
    parser.add_argument("--config", type=Path, help="the YAML to show; default: textloop.yaml")
    parser.set_defaults(keys="run")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY",
        help="list only keys that begin with it, such as data. or trainer.; with --show: "
        "key.sub=value overrides a key",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the list of keys, the configuration or the schema."""
    if arguments.show:
        print(_shown(arguments), end="")
    elif arguments.schema:
        print(json.dumps(schema_of(server=arguments.server), indent=2, ensure_ascii=False))
    else:
        print(_listed(arguments.overrides, server=arguments.server), end="")
    return 0


def _shown(arguments: argparse.Namespace) -> str:
    import yaml

    from serve.config import load_config
    from serve.language.environment import SERVER, overrides_from
    from serve.settings import ServeConfig

    if arguments.server:
        overrides = [*overrides_from(ServeConfig, SERVER), *arguments.overrides]
        config = load_config(ServeConfig, arguments.config, overrides)
        values = config.model_dump(mode="json")
    else:
        run = load_run(arguments)
        values = run.model_dump(mode="json") | {"tune": run.tune.model_dump(mode="json")}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def schema_of(*, server: bool) -> dict[str, Any]:
    """Return the JSON schema of the server's configuration, or of a run's."""
    if not server:
        from train.config.schema import run_schema

        return run_schema()
    from serve.language.keys import json_schema
    from serve.settings import ServeConfig

    return json_schema(ServeConfig, "Textloop server")


def _listed(beginnings: list[str], *, server: bool) -> str:
    """The keys that begin with one of the words, or all, three lines for each.

    Raises ValueError for a word that begins no key.
    """
    from serve.language.environment import RUN, SERVER, variable_of
    from serve.language.spelling import did_you_mean

    keys = list(_keys(server=server))
    for word in beginnings:
        if not any(key.name.startswith(word) for key in keys):
            hint = did_you_mean(word, [key.name for key in keys])
            raise ValueError(f"no key begins with `{word}`{hint}; `textloop config` lists all")
    lines = []
    for key in keys:
        # Of `trainer` all fields are listed only where they are asked for.
        named = any(key.name.startswith(word) for word in beginnings)
        if named or (not beginnings and not key.name.startswith("trainer.")):
            default = "required" if key.default is None else f"default: {key.default}"
            values = key.values.replace("`", "")
            lines.append(f"{key.name}  ({values}; {default})")
            if key.meaning:
                lines.append(f"    {key.meaning}")
            variable = variable_of(key.name, SERVER if server else RUN)
            if "NAME" not in key.name:
                lines.append(f"    {variable}")
    if not beginnings and not server:
        lines.append(
            "trainer.*: fields of transformers.TrainingArguments: textloop config trainer."
        )
    return "\n".join(lines) + "\n"


def _keys(*, server: bool) -> Iterator[Key]:
    from serve.language.keys import keys_of, sections

    if server:
        from serve.settings import ServeConfig

        yield from keys_of(ServeConfig)
        return
    from train.config.run import RunConfig
    from train.config.schema import trainer_keys

    for prefix, section in sections(RunConfig):
        yield from keys_of(section, prefix)
    yield from trainer_keys()
