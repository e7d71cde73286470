"""The commands of serving by name."""

from __future__ import annotations

from serve.command.program import Command

COMMANDS = {
    "serve": Command(module="serve.cli.serve", help="serve a bundle over HTTP", extra="serve"),
    "predict": Command(module="serve.cli.predict", help="classify a whole file", extra="serve"),
    "key": Command(module="serve.cli.key", help="create an API key", extra="serve"),
}
