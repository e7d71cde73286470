"""All commands of the program `textloop`, in the order of its help."""

from __future__ import annotations

from dataclasses import replace

from serve.cli.commands import COMMANDS as SERVING
from serve.command.program import Command
from train.cli.commands import COMMANDS as TRAINING

COMMANDS = {
    **TRAINING,
    **SERVING,
    "serve": replace(SERVING["serve"], module="textloop.serving"),
    "config": Command(
        module="train.cli.config",
        help="list the configuration keys, show a configuration, print its JSON schema",
        extra="serve",
    ),
    "completion": Command(
        module="textloop.completion",
        help="print the completion script of a shell: bash, zsh or fish",
        extra="serve",
    ),
}
