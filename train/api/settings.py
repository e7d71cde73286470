"""From the arguments of `textloop.train` to the configuration of a run."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serve.config import config_of
from serve.language.yaml12 import read_yaml
from train.config.run import RunConfig

Values = dict[str, Any]


def start_values(config: Mapping[str, Any] | str | Path | None) -> Values:
    """Return the keys of a configuration, nested: of a YAML file, or of a mapping.

    Keys of a mapping may be dotted. Raises ValueError for a file that is none.
    """
    values: Values = {}
    if isinstance(config, str | Path):
        if not Path(config).is_file():
            raise ValueError(f"no configuration file at `{config}`")
        config = read_yaml(Path(config))
        if not isinstance(config, dict):
            raise ValueError("the configuration has no `key: value` lines")
    set_keys(values, config or {})
    return values


def set_keys(values: Values, keys: Mapping[str, Any]) -> None:
    """Set keys, dotted or nested; those of a section are added to the ones that it has.

    Raises ValueError for a key below one that is no section.
    """
    for dotted, value in keys.items():
        *sections, last = str(dotted).split(".")
        place = values
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise ValueError(f"`{dotted}`: `{section}` is a value, not a section")
        if isinstance(value, Mapping) and isinstance(place.get(last), dict):
            set_keys(place[last], value)
        else:
            place[last] = _plain(value)


def run_config(values: Values) -> RunConfig:
    """Return the configuration. Raises ValueError that names each wrong key."""
    return config_of(RunConfig, copy.deepcopy(values))


def _plain(value: Any) -> Any:
    """A value as YAML has it."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value
