"""The program: its help, version, mistakes, keys, environment, schema and completion."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from processes import ROOT, run

import textloop
from serve.language.yaml12 import read_yaml
from textloop.__main__ import main
from textloop.commands import COMMANDS
from textloop.completion import following

Capture = pytest.CaptureFixture[str]


def test_help_is_quick_and_lists_all_commands() -> None:
    started = time.perf_counter()
    done = run("-m", "textloop", "--help")
    seconds = time.perf_counter() - started

    assert done.returncode == 0
    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)
    assert seconds < 1  # 0.1 s where nothing else runs
    loaded = "import sys; from textloop.__main__ import main; main([]); print(*sys.modules)"
    heavy = {"numpy", "pydantic", "torch", "yaml", "importlib.metadata"}
    assert not heavy & set(run("-c", loaded).stdout.split())


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_of_a_command_imports_nothing_heavy(name: str) -> None:
    code = (
        "import sys; from textloop.commands import COMMANDS; "
        "from serve.command.program import command_parser; "
        f"command_parser('textloop', {name!r}, COMMANDS).format_help(); print(*sys.modules)"
    )

    done = run("-c", code)

    assert done.returncode == 0, done.stderr
    assert not {"numpy", "pydantic", "torch", "yaml"} & set(done.stdout.split())


def test_version_is_that_of_the_project(capsys: Capture) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

    assert textloop.__version__ == version
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"textloop {version}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fitt"], "there is no command `fitt`; did you mean `fit`?"),
        (["evalaute"], "did you mean `evaluate`?"),
        (["fit", "--frsh"], "unrecognized arguments: --frsh; did you mean `--fresh`?"),
        (["serve", "--prot=1"], "did you mean `--port`?"),
        (["serve", "a", "b"], "one bundle, please: `a` and `b`"),
        (["config", "model.maxlen"], "did you mean `model.max_length`?"),
        (["config", "trainer.num_epochs"], "did you mean `trainer.num_train_epochs`?"),
        (["completion"], "name a shell: bash, fish, zsh"),
    ],
)
def test_mistakes_name_what_was_meant(words: list[str], message: str, capsys: Capture) -> None:
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_without_config_the_yaml_of_the_folder_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit"]) == 2
    assert "no `textloop.yaml` in this folder; give one with --config" in capsys.readouterr().err
    Path("mine.yaml").touch()
    assert main(["fit"]) == 2
    assert "name one with --config (`mine.yaml`), or write it with" in capsys.readouterr().err
    assert main(["serve"]) == 2
    assert "name a bundle, or the directory of a run: there is no" in capsys.readouterr().err
    Path("textloop.yaml").write_text("output_dir: there\ndata: {train: a.csv}\nmodel: {base: b}\n")
    assert main(["config", "--show"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["output_dir"] == "there"
    assert main(["serve"]) == 2
    assert "no bundle at `there`" in capsys.readouterr().err


def test_environment_comes_between_file_and_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("textloop.yaml").write_text("output_dir: a\nseed: 1\ndata: {train: a}\nmodel: {base: b}\n")
    monkeypatch.setenv("TEXTLOOP__SEED", "2")
    monkeypatch.setenv("TEXTLOOP__MODEL__MAX_LENGTH", "64")
    monkeypatch.setenv("TEXTLOOP__TRAINER__LEARNING_RATE", "1e-4")
    monkeypatch.setenv("TEXTLOOP_PORT", "tcp://10.0.0.1:80")  # as Kubernetes sets it

    assert main(["config", "--show", "model.max_length=32"]) == 0

    shown, errors = capsys.readouterr()
    values = yaml.safe_load(shown)
    assert (values["seed"], values["model"]["max_length"]) == (2, 32)
    assert float(values["trainer"]["learning_rate"]) == 1e-4
    assert errors.startswith("configuration from the environment: TEXTLOOP__MODEL__MAX_LENGTH, ")
    monkeypatch.setenv("TEXTLOOP__SEDE", "3")
    assert main(["config", "--show"]) == 2
    assert "unknown key `sede`" in capsys.readouterr().err


def test_environment_of_the_server(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("TEXTLOOP_SERVE__PORT", "9000")

    assert main(["config", "--server", "--show", "access_log=true"]) == 0

    values = yaml.safe_load(capsys.readouterr().out)
    assert (values["port"], values["access_log"]) == (9000, True)


def test_every_key_is_listed_with_default_text_and_variable(capsys: Capture) -> None:
    assert main(["config", "model.max_length"]) == 0
    assert capsys.readouterr().out == (
        "model.max_length  (integer ≥ 4; default: 128)\n"
        "    Maximum tokens per input, including special tokens; longer texts are truncated.\n"
        "    TEXTLOOP__MODEL__MAX_LENGTH\n"
    )
    assert main(["config", "--server", "port"]) == 0
    assert "TEXTLOOP_SERVE__PORT" in capsys.readouterr().out


def schema(capsys: Capture, *options: str) -> Any:
    assert main(["config", "--schema", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(found)


def test_schema_takes_what_is_shipped_and_finds_mistakes(capsys: Capture) -> None:
    validator = schema(capsys)
    files = [*(ROOT / "configs").glob("*.yaml"), *(ROOT / "configs" / "quickstart").glob("*.yaml")]
    for file in files:
        if file.name != "serve.yaml":
            assert list(validator.iter_errors(read_yaml(file))) == [], file
    assert (
        list(schema(capsys, "--server").iter_errors(read_yaml(ROOT / "configs/serve.yaml"))) == []
    )

    values = {"output_dir": "a", "data": {"train": 1, "text_columns": "a"}, "model": {"base": "b"}}
    assert list(validator.iter_errors(values)) == []
    for section, mistake in {
        "data": {"train": "a", "text_colums": "a"},
        "trainer": {"learning_rat": 1},
        "method": "qlora",
        "model": {"base": "b", "max_length": 1},
    }.items():
        assert len(list(validator.iter_errors(values | {section: mistake}))) == 1, mistake
    described = validator.schema["$defs"]["ModelConfig"]["properties"]["max_length"]
    assert described["description"].startswith("Maximum tokens per input")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ev"], ["evaluate"]),
        (["fit", "--f"], ["--fresh"]),
        (["gate", "--backend", "o"], ["onnx"]),
        (["fit", "--config", ""], []),
        (["fit", "model.max"], ["model.max_length="]),
        (["fit", "trainer.num_t"], ["trainer.num_train_epochs="]),
        (["fit", "mod"], ["model."]),
        (["fit", "method=pr"], ["method=probe"]),
        (["fit", "method", "=", "pr"], ["probe"]),
        (["fit", "export_int8=f"], ["export_int8=false"]),
        (["serve", "max_queue"], ["max_queue_tokens="]),
        (["completion", "z"], ["zsh"]),
        (["nothing", ""], []),
    ],
)
def test_completion_knows_commands_options_keys_and_values(
    words: list[str], expected: list[str]
) -> None:
    assert following(words) == expected


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_completion_works_in_bash(tmp_path: Path) -> None:
    (tmp_path / "textloop").write_text(f'#!/bin/sh\nexec {sys.executable} -m textloop "$@"\n')
    (tmp_path / "textloop").chmod(0o755)
    script = (
        f'PATH={tmp_path}:$PATH; eval "$(textloop completion bash)"; '
        "COMP_WORDS=(textloop fit model.max); COMP_CWORD=2; _textloop; "
        'echo "${COMPREPLY[@]}"; COMP_WORDS=(textloop fit ""); _textloop; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    one, all_of_them = done.stdout.splitlines()
    assert one == "model.max_length="
    assert {"output_dir=", "trainer."} <= set(all_of_them.split())


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_scripts_of_other_shells_parse(shell: str, capsys: Capture) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    subprocess.run([shell, "-n", "-c", script], check=True)
