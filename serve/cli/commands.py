"""The commands of serving by name."""

from __future__ import annotations

from serve.command.program import Command

COMMANDS = {
    "serve": Command(module="serve.cli.serve", help="serve a bundle over HTTP", extra="serve"),
    "predict": Command(module="serve.cli.predict", help="classify a whole file", extra="serve"),
    "deploy": Command(
        module="serve.cli.deploy", help="copy a bundle into a deployment directory", extra="serve"
    ),
    "promote": Command(
        module="serve.cli.promote",
        help="make a deployed version answer, and wait until it does",
        extra="serve",
    ),
    "rollback": Command(
        module="serve.cli.rollback", help="return to the version before", extra="serve"
    ),
    "status": Command(
        module="serve.cli.status",
        help="show the champion of a deployment directory, its bundles and servers",
        extra="serve",
    ),
    "history": Command(
        module="serve.cli.history",
        help="list the changes of a deployment directory",
        extra="serve",
    ),
    "key": Command(module="serve.cli.key", help="create an API key", extra="serve"),
}
