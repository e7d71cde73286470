"""The documentation is true: commands parse, requests are answered, what it names exists."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from config_reference import PAGE, WRITE, reference
from processes import ROOT, Server

from serve.bundle.manifest import Measured
from serve.cli.which import named_bundle
from serve.command.program import command_parser
from serve.config import Config, load_config, parse_yaml
from serve.language.keys import sections
from serve.settings import ServeConfig
from textloop.commands import COMMANDS
from train.cli.options import DEFAULT_CONFIG
from train.config.run import RunConfig

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "BENCHMARKS.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
MANUAL = [page for page in PAGES if page.name != "CHANGELOG.md"]
"""Pages of the present state; the changelog also names what is gone."""

MADE = ("best.yaml", DEFAULT_CONFIG.name)
"""Names of configurations that commands write."""
QUICKSTART = ROOT / "configs" / "quickstart" / "quickstart.yaml"
LAUNCH = re.compile(
    r"(?:accelerate launch(?: --config_file (?P<file>\S+))? -m )?textloop (?P<words>[^#>]*)"
)


def fences(page: Path, language: str) -> Iterator[str]:
    """Code blocks of a page in a language."""
    for tag, body in re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.M):
        if tag == language:
            yield body


def spans(page: Path) -> list[str]:
    """Inline code of a page, outside blocks, with table cells unescaped."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.M)
    return [span.replace("\\|", "|") for span in re.findall(r"`([^`\n]+)`", prose)]


def commands(pages: list[Path] = MANUAL) -> list[str]:
    """Shell lines of the pages' blocks, and their inline commands with arguments."""
    lines = [line for page in pages for block in fences(page, "sh") for line in block.splitlines()]
    inline = [span for page in pages for span in spans(page)]
    return lines + [
        each for each in inline if re.match(r"(textloop|python|accelerate|\./scripts/)", each)
    ]


def launched(extra: str) -> list[list[str]]:
    """Arguments of each command that needs an extra and has any."""
    found = (LAUNCH.match(line) for line in commands())
    calls = [shlex.split(each["words"]) for each in found if each]
    calls = [words for words in calls if "--help" not in words]
    named = [words for words in calls if len(words) > 1 and words[0] in COMMANDS]
    return [words for words in named if COMMANDS[words[0]].extra == extra]


def test_every_command_exists() -> None:
    found = (LAUNCH.match(line) for line in commands())
    named = {each["words"].split()[0] for each in found if each and each["words"].strip()}
    assert {name for name in named if name.isalpha() and name.islower()} <= COMMANDS.keys()


def test_reference_of_keys_is_that_of_the_code() -> None:
    assert PAGE.read_text() == reference(), f"out of date; run `{WRITE}`"


def test_file_of_server_keys_has_them_all_with_their_defaults() -> None:
    file = yaml.safe_load((ROOT / "configs" / "serve.yaml").read_text())

    assert file == ServeConfig().model_dump(mode="json")


# Commands


def test_every_training_command_is_accepted() -> None:
    found = launched("train")
    stages = {"prepare", "fit", "merge", "evaluate", "run", "tune", "gate", "publish"}
    assert {arguments[0] for arguments in found} >= stages
    for name, *arguments in found:
        parsed = command_parser("textloop", name, COMMANDS).parse_args(arguments)
        if "config" in parsed:
            is_here = parsed.config is not None and (ROOT / parsed.config).is_file()
            assert is_here or parsed.config is None or parsed.config.name in MADE, arguments
            file = ROOT / parsed.config if is_here else QUICKSTART
            load_config(RunConfig, file, parsed.overrides)


def test_every_serving_command_is_accepted() -> None:
    found = launched("serve")
    assert {arguments[0] for arguments in found} >= {"serve", "predict", "key"}
    for name, *arguments in found:
        parsed = command_parser("textloop", name, COMMANDS).parse_args(arguments)
        if name == "serve":
            if not parsed.deployment:
                named_bundle(parsed)
            load_config(ServeConfig, parsed.config and ROOT / parsed.config, parsed.overrides)


def test_every_launch_file_exists() -> None:
    named = [each["file"] for line in commands() if (each := LAUNCH.match(line))]

    assert any(named)
    assert all((ROOT / name).is_file() for name in named if name)


def test_every_script_exists_and_knows_its_options() -> None:
    found = {"quickstart", "test"}
    for line in commands():
        if match := re.match(r"(?:python |\./)scripts/(\w+)(.*)", line):
            script, options = ROOT / "scripts" / match[1], re.findall(r"--[\w-]+", match[2])
            assert script.stat().st_mode & 0o111, line
            assert not [each for each in options if each not in script.read_text()], line
            found.add(match[1])
    assert found >= {"bench_serve", "bench_train", "check_gate", "check_parity", "check"}


def options() -> set[str]:
    """Options of all commands."""
    parsers = (command_parser("textloop", name, COMMANDS) for name in COMMANDS)
    return {each for parser in parsers for each in parser._option_string_actions} | {"--version"}


def test_every_option_in_prose_exists() -> None:
    known = options()
    scripts = "".join(file.read_text() for file in (ROOT / "scripts").iterdir() if file.is_file())
    known |= {*re.findall(r"--[\w-]+", scripts), "--build-arg", "--config_file"}
    for page in MANUAL:
        named = {option for span in spans(page) for option in re.findall(r"--[a-z][\w-]+", span)}
        assert named <= known, page


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_option_has_a_help_text(command: str) -> None:
    for action in command_parser("textloop", command, COMMANDS)._actions:
        assert action.help, action


# Requests and YAML


def test_every_request_is_answered(serve: Callable[[str], Server]) -> None:
    requests = [shlex.split(line) for line in commands() if line.startswith("curl ")]
    assert {urlpath(words[1]) for words in requests} >= {"/predict", "/invocations"}
    for words in requests:
        body = words[words.index("-d") + 1]
        headers = dict([words[words.index("-H") + 1].split(": ")]) if "-H" in words else {}
        server = serve("pair" if '[["' in body else "single")
        url = server.url + urlpath(words[1])
        assert httpx.post(url, content=body, headers=headers, timeout=60).status_code == 200, words


def urlpath(url: str) -> str:
    return url.removeprefix("http://127.0.0.1:8000")


def test_every_json_block_is_json() -> None:
    for page in MANUAL:
        for block in fences(page, "json"):
            json.loads(block)


def test_every_yaml_block_is_part_of_a_run() -> None:
    blocks = [block for page in MANUAL for block in fences(page, "yaml")]
    assert len(blocks) >= 3
    for block in blocks:
        values = parse_yaml(QUICKSTART.read_text())
        for key, value in parse_yaml(block).items():
            values[key] = values.get(key, {}) | value if isinstance(value, dict) else value
        RunConfig.model_validate(values)


# Names


def known_keys() -> set[str]:
    """Dotted keys of a run and of the server, a library's own fields included."""
    from peft import LoraConfig
    from transformers import TrainingArguments

    libraries: dict[str, Any] = {"trainer": TrainingArguments, "lora": LoraConfig}
    found = [each for schema in (RunConfig, ServeConfig) for each in sections(schema)]
    keys = {f"{prefix}{name}" for prefix, section in found for name in section.model_fields}
    free = [(name, field) for name, kind in libraries.items() for field in dataclasses.fields(kind)]
    return keys | {f"{name}.{field.name}" for name, field in free}


def test_every_key_it_names_exists() -> None:
    known = known_keys()
    roots = "|".join({key.split(".")[0] for key in known if "." in key})
    pattern = re.compile(rf"(?:{roots})(?:\.[a-z_0-9]+)+(?==|$|:)")
    for page in MANUAL:
        for span in spans(page):
            if "/" not in span.split("=")[0] and (match := pattern.match(span)):
                assert match[0] in known, f"{page.name}: `{span}`"


def test_every_override_in_prose_is_accepted() -> None:
    runs, server = 0, set(ServeConfig.model_fields)
    for page in MANUAL:
        for span in spans(page):
            parts = re.split(r" (?=[a-z_0-9.]+=)", span)
            if not all(re.match(r"(?!key\b)[a-z_0-9.]+=[^…]+$", part) for part in parts):
                continue
            is_server = parts[0].split("=")[0] in server
            schema: type[Config] = ServeConfig if is_server else RunConfig
            load_config(schema, None if is_server else QUICKSTART, parts)
            runs += not is_server
    assert runs > 10


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
            name, _, anchor = link.partition("#")
            target = page.parent / name if name else page
            assert target.exists(), f"{page.name}: {link}"
            if anchor:
                heads = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
                slugs = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
                assert anchor in slugs, f"{page.name}: {link}"


def test_every_file_it_names_exists() -> None:
    for page in MANUAL:
        for span in spans(page):
            if match := re.match(r"(?:train|serve|tests|configs|scripts|docs)/[\w./*-]*", span):
                assert list(ROOT.glob(match[0].rstrip("/"))), f"{page.name}: `{span}`"


def test_metrics_are_those_of_the_server() -> None:
    modules = ("engine/metrics.py", "http/arms/report.py")
    code = "".join((ROOT / "serve" / each).read_text() for each in modules)
    page = (ROOT / "docs" / "serving" / "operations.md").read_text()

    named = {name.removesuffix("_total") for name in re.findall(r"`(textloop_\w+)`", page)}
    assert named == set(re.findall(r'"(textloop_\w+)"', code))


def test_metrics_are_those_that_evaluate_measures_and_prints() -> None:
    from train.evaluation.summary import table
    from train.statistics.intervals import measure_all
    from train.statistics.metrics import one_hot

    page = (ROOT / "docs" / "evaluation.md").read_text()
    rows = page[page.index("| metric | definition |") : page.index("| interval of | method |")]
    named = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", rows, re.MULTILINE)))
    rows_NC = one_hot(np.arange(6) % 2, 2)
    found = measure_all(
        rows_NC, rows_NC, rows_NC.astype(np.float32), task="single_label", labels="ab", seed=0
    )
    assert named == list(found.overall)

    readme = (ROOT / "README.md").read_text()
    shown = re.findall(r"^((\w+) +(\S+) +\[(\S+), (\S+)\])$", readme, re.MULTILINE)
    assert len(shown) == 2
    for line, name, *numbers in shown:
        value, low, high = map(float, numbers)
        intervals = {name: Measured(value=value, low=low, high=high)}
        assert table(intervals, "single_label") == line


def texts_of_the_code() -> str:
    """All strings of the code, formatted values as …, one a line."""
    lines = []
    for file in [
        file for name in ("textloop", "train", "serve") for file in (ROOT / name).rglob("*.py")
    ]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else "…" for p in node.values]
                lines.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                lines.append(node.value)
    scripts = (file for file in (ROOT / "scripts").iterdir() if file.is_file())
    return "\n".join([*lines, *(file.read_text() for file in scripts)])


def test_messages_it_quotes_are_in_the_code() -> None:
    texts = texts_of_the_code()
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    quoted = re.findall(r"^\| `([^`]+)`(?: from `[^`]+`)? \|", page, re.MULTILINE)

    def is_there(message: str) -> bool:
        parts = (re.escape(part.strip()) for part in message.split("…"))
        return re.search(".*".join(parts), texts) is not None

    assert len(quoted) > 20
    assert [message for message in quoted if not is_there(message)] == []


def test_trainer_defaults_are_those_of_the_code(tmp_path: Path) -> None:
    from train.fit.arguments import training_arguments

    def default(field: str, **values: Any) -> str:
        config = load_config(RunConfig, QUICKSTART, [f"output_dir={tmp_path}"])
        config = config.model_copy(update={"trainer": {"use_cpu": True}, **values})
        value = getattr(training_arguments(config), field)
        shown = str(getattr(value, "value", value))
        return f"{value:f}".rstrip("0") if isinstance(value, float) else shown

    page = (ROOT / "docs" / "training.md").read_text()
    table = page[page.index("| field | default |") : page.index("Fields that Textloop manages")]
    rows = re.findall(r"^\| (`.*`) \| (.*) \|$", table, re.MULTILINE)
    assert len(rows) == 10
    for names, text in rows:
        for name in re.findall(r"`(\w+)`", names):
            assert re.match(rf"{re.escape(default(name).rstrip('.'))}\b", text), name
    assert default("learning_rate", method="full") in table


def test_readme_is_one_page_with_a_light_picture() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200
    for image in (ROOT / "docs").rglob("*.png"):
        assert image.stat().st_size < 300_000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_placeholder_is_left(page: Path) -> None:
    assert not re.search(r"<!--|\bTODO\b|\bTBD\b|\bFIXME\b", page.read_text())
