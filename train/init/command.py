"""`textloop init FILE`: look at labelled data, and write the configuration of a run for them.

Nothing is asked. What was understood is said with its reason, what is in doubt with the option
that settles it; where a guess would be one in the dark, the command ends with exit code 2.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from train.init.plan import Plan, Request

DEFAULT_OUTPUT = "textloop.yaml"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("source", help="a file, or any other source of data.train")
    parser.add_argument(
        "overrides", nargs="*", metavar="key.sub=value", help="set a key of the configuration"
    )
    parser.add_argument(
        "--text", action="append", help="column of the text; A,B for a pair; or '{title}: {body}'"
    )
    parser.add_argument(
        "--label", action="append", help="column of the label; A,B,C for a column per label"
    )
    parser.add_argument("--task", choices=["single_label", "multi_label"], help="default: a guess")
    parser.add_argument("--method", help="auto, probe, lora or full; default: auto")
    parser.add_argument(
        "--stock", action="store_true", help="auto: a bundle that stock transformers load"
    )
    parser.add_argument("--base", help="directory, package:NAME/PATH, or Hub id with @REVISION")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path(DEFAULT_OUTPUT), help=f"default: {DEFAULT_OUTPUT}"
    )
    parser.add_argument("--force", action="store_true", help="replace files that exist")


def run(arguments: argparse.Namespace) -> int:
    """Read the data, say what was understood, write the YAML; return the exit code."""
    from serve.files import write_atomic
    from train.init.check import checked
    from train.init.plan import default_output_dir
    from train.init.report import report
    from train.init.settings import comments, settings, to_yaml

    _check_output(arguments.output, arguments.force)
    request = _request(arguments)
    plan, lines = _understood(request, arguments)
    try:
        plan = checked(plan)
    except ValueError:
        if lines:  # the rows of an export, written for a run that cannot be
            Path(plan.sources["train"]).unlink()
        raise
    print("\n".join([*lines, *report(plan)]))
    output_dir = str(request.overrides.get("output_dir") or default_output_dir(request.source))
    values = settings(plan, output_dir)
    config = shlex.quote(str(arguments.output))
    named = "" if is_default(arguments.output) else f" --config {config}"
    command = f"textloop run{named}"
    head = ["Written by `textloop init`. Train, merge and evaluate with:", f"  {command}"]
    write_atomic(arguments.output, to_yaml(values, comments(plan), head).encode())
    print(f"\nwrote {arguments.output}; next: {command}")
    return 0


def is_default(path: Path) -> bool:
    """Whether `textloop run` reads this YAML where none is named."""
    return path.absolute() == Path(DEFAULT_OUTPUT).absolute()


def _check_output(path: Path, force: bool) -> None:
    if path.is_dir():
        raise ValueError(f"`{path}` is a directory; name a file with --output")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"`{path}`: there is no directory `{path.parent}`")
    if path.exists() and not force:
        raise ValueError(f"`{path}` exists; --force replaces it, --output NAME.yaml writes another")


def _request(arguments: argparse.Namespace) -> Request:
    from serve.config import load_config
    from train.config.run import RunConfig
    from train.init.plan import METHOD, Request

    needed = ["output_dir=-", f"data.train={arguments.source}", "model.base=-"]
    options = [
        f"{name}={value}" for name in ("method", "task") if (value := getattr(arguments, name))
    ]
    if arguments.stock:
        if (arguments.method or METHOD) != "auto":
            raise ValueError(f"--stock is for method auto, not {arguments.method}; remove one")
        options.append("auto.stock=true")
    given = load_config(RunConfig, None, [*needed, *arguments.overrides, *options])
    overrides = given.model_dump(mode="json", exclude_unset=True)
    named = {override.partition("=")[0] for override in arguments.overrides}
    for key in ("output_dir", "data.train", "model.base"):
        section, _, name = key.rpartition(".")
        if key not in named:
            (overrides[section] if section else overrides).pop(name)
    return Request(
        source=overrides.get("data", {}).pop("train", None) or arguments.source,
        text=_names(arguments.text),
        label=_names(arguments.label),
        task=overrides.pop("task", None),
        method=overrides.pop("method", METHOD),
        base=arguments.base or overrides.get("model", {}).get("base"),
        overrides={key: value for key, value in overrides.items() if value != {}},
    )


def _names(given: list[str] | None) -> tuple[str, ...]:
    """Return the names of an option; a template is one."""
    return tuple(
        name.strip()
        for each in given or []
        for name in ([each] if "{" in each else each.split(","))
        if name.strip()
    )


def _understood(request: Request, arguments: argparse.Namespace) -> tuple[Plan, list[str]]:
    """Return the plan, and lines on an export that was converted."""
    from serve.formats.options import format_of
    from train.init.conversion import as_lines, convert
    from train.init.exports.convert import tool_of
    from train.init.neighbours import find_splits
    from train.init.plan import make_plan
    from train.init.reading.sample import read_sample

    keys: dict[str, Any] = request.overrides.get("data", {})
    sources = find_splits(request.source)
    with as_lines(sources["train"]) as source:
        sample = read_sample(source, keys)
        if tool := tool_of(sample.rows):
            return convert(request, sample, tool, arguments.output, force=arguments.force)
    if source != sources["train"]:
        format_of(sources["train"])  # raises
    return make_plan(request, sources, sample), []
