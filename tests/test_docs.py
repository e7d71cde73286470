"""The README does not lie: its commands parse, its requests are answered, its keys are all."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator

import pytest
import yaml
from processes import ROOT, Server
from pydantic import BaseModel

from serve.__main__ import _parser as serve_parser
from serve.config import ServeConfig, load_config
from train.__main__ import _parser as train_parser
from train.config.run import RunConfig

README = (ROOT / "README.md").read_text()


def commands() -> list[str]:
    """Shell lines of the README's code blocks."""
    blocks = re.findall(r"```\n(.*?)```", README, re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def launched(package: str) -> list[list[str]]:
    """Arguments of each command of a package in the README."""
    start = re.compile(rf"(?:python|accelerate launch(?: --config_file \S+)?) -m {package} (.*)")
    texts = [*commands(), *re.findall(r"`([^`\n]+)`", README)]
    found = [match[1] for text in texts if (match := start.match(text))]
    return [shlex.split(text) for text in found if "..." not in text]


def keys(schema: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, object, str]]:
    """Dotted name, default and description of every key."""
    for name, field in schema.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from keys(inner, f"{prefix}{name}.")
        else:
            default = (
                "required" if field.is_required() else field.get_default(call_default_factory=True)
            )
            if isinstance(default, tuple):
                default = list(default)
            shown = default if default == "required" else f"`{json.dumps(default)}`"
            yield f"{prefix}{name}", shown, field.description or ""


def key_table(schema: type[BaseModel]) -> str:
    """The table of a configuration's keys, as it must stand in the README."""
    lines = ["| key | default | what |", "| --- | --- | --- |"]
    for name, default, text in keys(schema):
        text = " ".join(text.split()).replace("|", "\\|")
        lines.append(f"| `{name}` | {str(default).replace('|', chr(92) + '|')} | {text} |")
    return "\n".join(lines)


def test_no_placeholder_is_left() -> None:
    assert "<!--" not in README


@pytest.mark.parametrize("schema", [RunConfig, ServeConfig])
def test_table_of_keys_is_that_of_the_code(schema: type[BaseModel]) -> None:
    assert key_table(schema) in README, f"the table must read:\n{key_table(schema)}"


def test_file_of_server_keys_has_them_all_with_their_defaults() -> None:
    file = yaml.safe_load((ROOT / "configs" / "serve.yaml").read_text())

    assert file == ServeConfig().model_dump(mode="json")


def test_every_training_command_is_accepted() -> None:
    found = launched("train")
    assert {arguments[0] for arguments in found} >= {"fit", "merge"}
    for arguments in found:
        parsed = train_parser().parse_args(arguments)
        load_config(RunConfig, ROOT / parsed.config, parsed.overrides)


def test_every_serving_command_is_accepted() -> None:
    found = launched("serve")
    assert {arguments[0] for arguments in found} >= {"run", "predict"}
    for arguments in found:
        parsed = serve_parser().parse_args(arguments)
        if parsed.command.__name__ == "_run":
            load_config(ServeConfig, parsed.config, parsed.overrides)


def test_every_request_is_answered(serve: Callable[[str], Server]) -> None:
    bodies = [shlex.split(line)[-1] for line in commands() if line.startswith("curl ")]
    assert len(bodies) >= 2
    for body in bodies:
        assert serve("single").post(json.loads(body)).status_code == 200


def test_files_and_directories_it_names_exist() -> None:
    for name in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"\./(scripts/\w+)", README):
        assert (ROOT / name).stat().st_mode & 0o111, name


@pytest.mark.parametrize("command", ["run", "predict"])
def test_every_serving_option_has_a_help_text(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        serve_parser().parse_args([command, "--help"])

    text = capsys.readouterr().out
    options = re.findall(r"^  (--[\w-]+)(.*)$", text, re.MULTILINE)
    assert {name for name, _ in options} >= {"--bundle", "--device"}
