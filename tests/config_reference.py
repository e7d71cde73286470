"""The reference of all configuration keys, generated from the configuration classes.

`python -m tests.config_reference` writes docs/configuration.md.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from serve.language.keys import keys_of, sections
from serve.settings import ServeConfig
from train.config.run import RunConfig

PAGE = Path(__file__).parent.parent / "docs" / "configuration.md"
WRITE = "python -m tests.config_reference"


def key_table(schema: type[BaseModel], prefix: str) -> str:
    """The keys of one section, without those of sections inside it."""
    lines = ["| key | values | default | meaning |", "| --- | --- | --- | --- |"]
    for key in keys_of(schema, prefix):
        default = "required" if key.default is None else f"`{key.default}`"
        cells = [f"`{key.name}`", key.values, default, key.meaning]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def reference() -> str:
    """The page of all configuration keys."""
    parts = [
        "# Configuration",
        f"Generated from the configuration classes by `{WRITE}`; do not edit by hand.",
        "A run is one YAML file, given to every stage with `--config` (without it: `textloop.yaml` "
        "in the current folder); `key.sub=value` arguments override it. The server takes a YAML "
        "file with `--config`, `key=value` arguments, and `--host`, `--port`, `--device`. `null` "
        "means not set. Unknown keys are refused.",
        "Environment variables come between the file and the arguments: `TEXTLOOP__` and the key "
        "in capitals, two underscores for each dot, for a run (`TEXTLOOP__MODEL__MAX_LENGTH=64`); "
        "`TEXTLOOP_SERVE__` for the server (`TEXTLOOP_SERVE__PORT=9000`). `textloop config` lists "
        "these keys in a terminal, `textloop config --schema` prints a JSON schema for editors.",
    ]
    for title, schema in (("Run", RunConfig), ("Server", ServeConfig)):
        parts.append(f"## {title}")
        for prefix, section in sections(schema):
            if prefix:
                parts.append(f"### {prefix.removesuffix('.')}")
                parts.append(" ".join((section.__doc__ or "").split()))
            parts.append(key_table(section, prefix))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(reference())
    print(f"wrote {PAGE}")
