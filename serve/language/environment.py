"""Configuration keys from environment variables: `TEXTLOOP__MODEL__MAX_LENGTH=64`.

Two underscores end the prefix and stand for the dots, so that no variable collides with those that
Kubernetes sets for a service called `textloop` (TEXTLOOP_PORT), or with parts of a key. Variables
override the YAML, and are overridden by the command line.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from pydantic import BaseModel

from serve.language.problems import key_names

RUN = "TEXTLOOP__"
"""Prefix of the keys of a run."""

SERVER = "TEXTLOOP_SERVE__"
"""Prefix of the keys of the server."""


def variable_of(key: str, prefix: str) -> str:
    """Return the environment variable of a dotted key."""
    return prefix + key.upper().replace(".", "__")


def overrides_from(
    schema: type[BaseModel], prefix: str, environment: Mapping[str, str] | None = None
) -> list[str]:
    """Return the variables with a prefix as overrides of a schema, and name them on stderr."""
    known = {variable_of(key, prefix): key for key in key_names(schema)}
    values = os.environ if environment is None else environment
    names = sorted(name for name in values if name.startswith(prefix))
    if names:
        print(f"configuration from the environment: {', '.join(names)}", file=sys.stderr)
    # A key of a library's, such as one of `trainer`, is not among ours.
    plain = {name: name.removeprefix(prefix).lower().replace("__", ".") for name in names}
    return [f"{known.get(name, plain[name])}={values[name]}" for name in names]
