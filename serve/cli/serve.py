"""`textloop serve`: serve a bundle over HTTP."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from serve.cli.which import add_bundle, named_bundle, words_of


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_bundle(parser, overrides=True)
    parser.add_argument(
        "--deployment",
        type=Path,
        help="a deployment directory in place of a bundle: serve what is promoted there",
    )
    parser.add_argument("--config", type=Path, help="YAML with the server's keys")
    parser.add_argument("--host", help="address to listen on; default: 127.0.0.1, this machine")
    parser.add_argument("--port", type=int, help="TCP port to listen on; default: 8000")
    parser.add_argument("--device", help="auto, cpu or cuda; default: auto")
    parser.epilog = (
        "keys: `textloop config --server` lists them with defaults and environment variables"
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    bundle = None if arguments.deployment else named_bundle(arguments)
    if arguments.deployment and (arguments.bundle or words_of(arguments)):
        raise ValueError("give a bundle or --deployment, not both")
    from serve.bundle.seal import open_bundle
    from serve.config import load_config
    from serve.language.environment import SERVER, overrides_from
    from serve.settings import ServeConfig

    flags = {"host": arguments.host, "port": arguments.port, "device": arguments.device}
    given = [f"{key}={value}" for key, value in flags.items() if value is not None]
    if vertex := os.environ.get("AIP_HTTP_PORT"):
        # Vertex AI sets the port that it will connect to; the command line overrides it.
        given = ["host=0.0.0.0", f"port={vertex}", *given]
    overrides = [*overrides_from(ServeConfig, SERVER), *arguments.overrides, *given]
    config = load_config(ServeConfig, arguments.config, overrides)
    source = arguments.deployment if bundle is None else open_bundle(bundle)
    from serve.server import run_server

    return run_server(source, config)
