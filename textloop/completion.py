"""`textloop completion SHELL`: completion of commands, options, choices, keys and files.

The scripts ask this program for the words that may follow, so that they stay right when it is
updated: `textloop completion --words=...`, one word a line. Of the libraries for this, shtab does
not write scripts for fish, and argcomplete would be a dependency of every installation.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from typing import Any

SCRIPTS = {
    "bash": """\
_textloop() {
    local IFS=$'\\n'
    COMPREPLY=($(textloop completion --words="${COMP_WORDS[*]:1:COMP_CWORD}" 2>/dev/null))
    if [[ ${COMPREPLY[0]} == *[=.] ]]; then compopt -o nospace; fi
}
complete -o default -o bashdefault -F _textloop textloop
""",
    "zsh": """\
#compdef textloop
_textloop() {
    local -a found
    found=(${(f)"$(textloop completion --words="${(F)words[2,CURRENT]}" 2>/dev/null)"})
    if (( ${#found} )); then
        compadd -S '' -- ${(M)found:#*[=.]}
        compadd -- ${found:#*[=.]}
    else
        _files
    fi
}
compdef _textloop textloop
""",
    "fish": """\
function __textloop_words
    set -l words (commandline -opc) (commandline -ct)
    set -l joined (string join \\n -- $words[2..-1] | string collect --no-trim-newlines)
    textloop completion --words="$joined" 2>/dev/null
end
complete -c textloop -a '(__textloop_words)'
""",
}

INSTALL = {
    "bash": 'eval "$(textloop completion bash)"   # in ~/.bashrc',
    "zsh": 'eval "$(textloop completion zsh)"   # in ~/.zshrc, after compinit',
    "fish": "textloop completion fish > ~/.config/fish/completions/textloop.fish",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("shell", nargs="?", choices=sorted(SCRIPTS), help="the shell")
    parser.add_argument("--words", help=argparse.SUPPRESS)
    parser.epilog = "to install:\n" + "\n".join(f"  {line}" for line in INSTALL.values())


def run(arguments: argparse.Namespace) -> int:
    """Print the script, or the words that may follow others."""
    if arguments.words is not None:
        for word in following(arguments.words.split("\n")):
            print(word)
        return 0
    if arguments.shell is None:
        raise ValueError(f"name a shell: {', '.join(sorted(SCRIPTS))}")
    print(SCRIPTS[arguments.shell], end="")
    return 0


def following(words: list[str]) -> list[str]:
    """Return what the last word may be completed to; nothing where it may name a file.

    words: those after the program, the last one unfinished, maybe empty.
    """
    from serve.command.program import command_parser
    from textloop.commands import COMMANDS

    *before, last = words
    if not before:
        return _starting([*COMMANDS, "--help", "--version"], last)
    if before[0] not in COMMANDS:
        return []
    parser = command_parser("textloop", before[0], COMMANDS)
    options = parser._option_string_actions
    if (option := options.get(before[-1])) and option.nargs != 0:
        return _starting(map(str, option.choices or []), last)
    if last.startswith("-"):
        return _starting((name for name in options if name.startswith("--")), last)
    choices = [
        str(each)
        for action in parser._actions
        for each in action.choices or []
        if not action.option_strings
    ]
    keys = parser.get_default("keys")
    return _starting(choices, last) if keys is None else list(_keys(keys, before, last))


def _keys(kind: str, before: list[str], last: str) -> Iterator[str]:
    """Yield keys with `=` or the section with `.` that comes next, or the values of a key."""
    from train.cli.config import schema_of

    # bash takes `key=value` apart.
    in_parts = len(before) > 2 and before[-1] == "="
    key, equals, value = (before[-2], "=", last) if in_parts else last.partition("=")
    *above, name = key.split(".")
    properties = _properties(schema_of(server=kind == "server"), above)
    if not equals:
        prefix = "".join(f"{each}." for each in above)
        for each, schema in properties.items():
            end = "." if schema.get("properties") else "="
            yield from _starting([f"{prefix}{each}{end}"], last)
    elif name in properties:
        begin = "" if in_parts else f"{key}="
        yield from (f"{begin}{each}" for each in _starting(_values(properties[name]), value))


def _properties(schema: dict[str, Any], above: list[str]) -> dict[str, Any]:
    """The keys of a section by name, with references resolved; {} for what is no section."""

    def resolved(part: dict[str, Any]) -> dict[str, Any]:
        return schema["$defs"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part

    here = schema
    for name in above:
        here = resolved(here.get("properties", {}).get(name, {}))
    return {name: resolved(part) for name, part in here.get("properties", {}).items()}


def _values(schema: dict[str, Any]) -> list[str]:
    found = [value for part in schema.get("anyOf", []) for value in _values(part)]
    kinds = schema.get("type", [])
    found += ["true", "false"] if kinds == "boolean" or "boolean" in kinds[:1] else []
    return found + [str(each) for each in schema.get("enum", [])]


def _starting(names: Iterable[str], start: str) -> list[str]:
    return [name for name in names if name.startswith(start)]
