"""A program of several commands: which one is meant, its help, its options.

A command is a module with `configure(parser)`, which adds its options, and `run(arguments)`, which
returns the exit code. Only the module of the command that was called is imported, so that help and
mistakes take no time. `run` may set `arguments.goes_on`, a function that says how the command is
continued when it was stopped.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from serve.command.run import CommandParser, print_line, run_command
from serve.language.spelling import closest
from serve.privacy import refuse_hub_kernels, silence


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command: the module that has it, and its line in the help of the program."""

    module: str
    help: str
    extra: Literal["serve", "train"]
    """Extra of pyproject.toml that it needs."""


Commands = Mapping[str, Command]


def main(
    argv: Sequence[str] | None,
    *,
    prog: str,
    commands: Commands,
    about: str,
    report: Callable[[str, int], None] = print_line,
    refuse: Callable[[str], None] = print,
) -> int:
    """Run the command that the arguments name; return its exit code, see `serve.command.run`.

    prog: the program, as it is called. about: text under the usage in its help. report, refuse:
    print the line with which a command ends, and that of a refusal.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    extra = commands[words[0]].extra if words and words[0] in commands else "serve"
    _prepare_libraries(extra)
    arguments = argparse.Namespace(goes_on=str)

    def execute() -> int:
        if not words or words[0] not in commands:
            return _without_command(words, prog, commands, about)
        command_parser(prog, words[0], commands).parse_args(words[1:], arguments)
        return int(_module(commands[words[0]]).run(arguments))

    return run_command(
        execute,
        extra=extra,
        goes_on=lambda: str(arguments.goes_on()),
        report=report,
        refuse=refuse,
    )


def command_parser(prog: str, name: str, commands: Commands) -> CommandParser:
    """Return the parser of one command."""
    command = commands[name]
    parser = CommandParser(
        prog=f"{prog} {name}",
        description=f"{command.help[:1].upper()}{command.help[1:]}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _module(command).configure(parser)
    return parser


def _module(command: Command) -> Any:
    return importlib.import_module(command.module)


def _without_command(words: list[str], prog: str, commands: Commands, about: str) -> int:
    """Print the help or the version. Raises ValueError for a command that does not exist."""
    parser = CommandParser(
        prog=prog,
        usage=f"{prog} [--version] [--help] COMMAND ...",
        description=about,
        epilog=_list(commands, prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    if words and not words[0].startswith("-"):
        hint = f"; did you mean `{found}`?" if (found := closest(words[0], commands)) else ""
        raise ValueError(f"there is no command `{words[0]}`{hint}; see {prog} --help")
    if parser.parse_args(words).version:
        from importlib.metadata import version

        print(f"textloop {version('textloop')}")
        return 0
    parser.print_help()
    return 2


def _list(commands: Commands, prog: str) -> str:
    width = max(map(len, commands)) + 2
    lines = [f"  {name:<{width}}{command.help}" for name, command in commands.items()]
    return "\n".join(
        ["commands:", *lines, "", f"`{prog} COMMAND --help` lists the options of one."]
    )


def _prepare_libraries(extra: str) -> None:
    """Set what libraries read when they are imported: no telemetry, no advice, no bars in logs."""
    silence()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if extra != "train":
        return
    refuse_hub_kernels()
    if sys.stderr is not None and not sys.stderr.isatty():
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
