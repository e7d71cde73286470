"""Command line of the training side.

accelerate launch -m train fit --config configs/X.yaml key.sub=value ...
python -m train merge --config configs/X.yaml key.sub=value ...
python -m train evaluate --config configs/X.yaml key.sub=value ...
python -m train publish --config configs/X.yaml --to hub:OWNER/NAME key.sub=value ...
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from pathlib import Path

from serve.config import load_config
from train.config import RunConfig


def main(argv: list[str] | None = None) -> int:
    """Run one stage; 0 when done, 1 when refused, 2 for a mistake of the caller's."""
    arguments = _parser().parse_args(argv)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # progress also reaches a pipe or a log
    try:
        config = load_config(RunConfig, arguments.config, arguments.overrides)
        return int(arguments.command(config, arguments))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _fit(config: RunConfig, arguments: argparse.Namespace) -> int:
    from train.fit import fit

    fit(config, fresh=arguments.fresh)
    return 0


def _merge(config: RunConfig, arguments: argparse.Namespace) -> int:
    from train.evaluate import table
    from train.merge import MergeRefused, merge

    try:
        bundle = merge(config, device=arguments.device)
    except MergeRefused as refusal:
        print(f"refused: {refusal}")
        return 1
    parity = bundle.manifest.parity
    print(f"largest difference of logits on {parity['texts']:.0f} validation texts:")
    for name in ("merged", "reloaded"):
        if f"adapter_{name}" in parity:  # full fine-tuning merges nothing
            print(f"  trained to {name:<8} {parity[f'adapter_{name}']:.1e}")
    print("validation metrics of the bundle, with 95 % intervals:")
    print(table(bundle.manifest.metrics["validation"]))
    if int8 := bundle.manifest.int8:
        print(f"int8 export for CPUs {'ships' if int8.shipped else 'left out'}: {int8.reason}")
    print(f"sealed {bundle.path}, version {bundle.manifest.version}")
    return 0


def _evaluate(config: RunConfig, arguments: argparse.Namespace) -> int:
    from train.evaluate import evaluate, table

    result = evaluate(config, bundle=arguments.bundle, device=arguments.device)
    print(f"test metrics on {len(result.full.reference_NC)} rows, with 95 % intervals:")
    print(table(result.full.intervals))
    if result.int8 and result.difference:
        change = result.difference
        print("of the int8 export, which serves on CPUs:")
        print(table(result.int8.intervals))
        print(
            f"accuracy against full precision {change.value:+.4f} "
            f"[{change.low:+.4f}, {change.high:+.4f}], paired; "
            f"{result.agreement:.2%} of the labels agree"
        )
    print(f"wrote {result.directory}")
    if arguments.bundle is None and (config.output_dir / "tracking.json").is_file():
        from train.tracking import attach_evaluation

        for tracker in attach_evaluation(config.output_dir, result.directory):
            print(f"attached to the run in {tracker}")
    return 0


def _publish(config: RunConfig, arguments: argparse.Namespace) -> int:
    from train.publish import describe, publish
    from train.targets import PublishRefused

    try:
        for published in publish(config, bundle=arguments.bundle, to=arguments.to):
            print(describe(published))
    except PublishRefused as refusal:
        print(f"refused: {refusal}")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: object, text: str) -> argparse.ArgumentParser:
        stage = commands.add_parser(name, help=text)
        stage.set_defaults(command=command)
        stage.add_argument("--config", type=Path, required=True, help="the run's YAML")
        stage.add_argument("overrides", nargs="*", metavar="key.sub=value", help="override a key")
        return stage

    fit = add("fit", _fit, "fine-tune; under `accelerate launch -m`")
    fit.add_argument("--fresh", action="store_true", help="delete the run's checkpoints first")
    merge = add("merge", _merge, "merge the adapter, prove it equal, seal the bundle")
    merge.add_argument("--device", default="auto", help="auto, cpu or cuda")
    evaluate = add("evaluate", _evaluate, "score the bundle on the test split")
    evaluate.add_argument("--device", default="auto", help="auto, cpu or cuda")
    evaluate.add_argument("--bundle", type=Path, help="another bundle than the run's own")
    publish = add("publish", _publish, "publish the bundle to the Hub, S3 or a directory")
    publish.add_argument("--bundle", type=Path, help="another bundle than the run's own")
    publish.add_argument("--to", help="hub:OWNER/NAME, s3://BUCKET/PREFIX or a directory")
    return parser


if __name__ == "__main__":
    sys.exit(main())
