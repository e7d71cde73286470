"""`textloop serve`: a bundle, or a Hugging Face classifier, which is imported on the fly.

`serve` itself knows bundles only; what makes one of a checkpoint is `train.importing.on_the_fly`.
"""

from __future__ import annotations

import argparse

from serve.cli import serve
from serve.cli.which import named_bundle


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    serve.configure(parser)
    parser.add_argument(
        "--text-columns",
        help="of a Hugging Face classifier that is no bundle: names of its texts, A,B for pairs",
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    if arguments.deployment:
        return serve.run(arguments)
    named = named_bundle(arguments)
    from serve.bundle.location import bundle_at

    arguments.bundle = bundle_at(named)
    if arguments.bundle is None:
        from train.importing.on_the_fly import bundle_for

        columns = tuple((arguments.text_columns or "text").split(","))
        arguments.bundle = bundle_for(str(named), text_columns=columns)
    return serve.run(arguments)
